package io.github.keras_adaptive.anytime

/** Checks what the operations of subgraphs read and write, and how subgraphs call each other. */
internal class Calls(private val graphs: List<Graph>) {
    /** @throws Damaged if an interpreter could not run them safely. */
    fun check() {
        val order = callersFirst()
        for (number in order) checkGraph(number)
        checkWork(order)
        val passing = passing()
        if (graphs.withIndex().any { (i, graph) -> graph.silent && i !in passing }) {
            throw Damaged("nothing computes an output")
        }
    }

    /** Checks what the operations of a subgraph read and write; its callers were before it. */
    private fun checkGraph(number: Int) {
        val graph = graphs[number]
        val tensors = graph.tensors
        val counters = graph.counters ?: emptyMap()
        for (place in counters.keys) {
            tensors[graph.inputs[place]].values = listOf(Value(place, 0))
        }
        val known = HashSet<Int>()
        tensors.forEachIndexed { i, tensor -> if (tensor.constant) known.add(i) }
        known.addAll(graph.inputs)
        for ((place, call) in graph.operations.withIndex()) {
            if (call.reads.any { it != -1 && it !in known }) {
                throw Damaged("an operation reads what nothing has computed")
            }
            if (call.writes.any { it in known } || call.writes.toSet().size < call.writes.size) {
                throw Damaged("an operation overwrites a tensor")
            }
            known.addAll(call.writes)
            val reads = call.reads.map { if (it < 0) null else tensors[it] }
            val writes = call.writes.map { tensors[it] }
            try {
                if (call.calls.isNotEmpty()) {
                    needs(number !in call.calls, "calls itself")
                    graph.repeats[place] = checkCall(call, reads, writes)
                } else {
                    val operation = Operation(call.kind, reads, writes, call.options, counters)
                    graph.work = plus(graph.work, Operations.check(operation))
                }
            } catch (error: Unlike) {
                throw Damaged(
                    "operation $place of subgraph $number, ${call.name}, ${error.message}"
                )
            }
        }
        graph.silent = !known.containsAll(graph.outputs)
        graph.bytes = mostBytes(graph)
    }

    /** Returns how many bytes of a subgraph's tensors are needed at once. */
    private fun mostBytes(graph: Graph): Long {
        fun bytes(i: Int): Long {
            val tensor = graph.tensors[i]
            return times(Structure.BYTES.getValue(tensor.letter).toLong(), tensor.size)
        }
        val last = HashMap<Int, Int>()
        graph.operations.forEachIndexed { n, call -> call.reads.forEach { last[it] = n } }
        val held = (graph.inputs + graph.outputs).toSet()
        var now = held.fold(0L) { sum, i -> plus(sum, bytes(i)) }
        var most = now
        graph.operations.forEachIndexed { n, call ->
            for (i in call.writes.toSet() - held) now = plus(now, bytes(i))
            most = maxOf(most, now)
            for (i in (call.reads + call.writes).toSet() - held) {
                val over = (last[i] ?: n) == n
                if (over && i >= 0 && !graph.tensors[i].constant) now -= bytes(i)
            }
        }
        return most
    }

    /** Checks a branch or a loop; returns how often it may run what it calls. */
    private fun checkCall(call: Call, reads: List<Tensor?>, writes: List<Tensor>): Long {
        val (first, second) = call.calls.map { graphs[it] }
        val into = first.inputs.map { first.tensors[it] }
        val given = first.outputs.map { first.tensors[it] }
        val intoBody = second.inputs.map { second.tensors[it] }
        val givenByBody = second.outputs.map { second.tensors[it] }
        if (call.kind == Operations.IF) {
            val condition = reads.firstOrNull()
            needs(condition != null && condition.letter == 'b', "has no condition")
            needs(condition!!.size == 1L, "has several conditions")
            for (graph in listOf(first, second)) {
                needs(graph.counters == null, "runs the body of a loop")
            }
            for ((taken, returned) in listOf(into to given, intoBody to givenByBody)) {
                Operations.checkCall(reads.drop(1), taken)
                Operations.checkCall(writes, returned)
            }
            return 1
        }
        val asks = given.size == 1 && given[0].letter == 'b' && given[0].size == 1L
        needs(asks, "has no condition")
        for (taken in listOf(into, intoBody, givenByBody, writes)) {
            Operations.checkCall(reads, taken)
        }
        val counters = counters(first, second, reads)
        needs(counters.isNotEmpty(), "does not count its steps")
        val others = second.counters
        needs(others == null || ends(others) == ends(counters), "runs the body of another loop")
        second.counters = counters
        val steps = counters.values.minOf { plus(minus(it.last, it.first), 1) }
        needs(steps <= LONGEST, "takes more steps than the exporter ever writes")
        return maxOf(steps, 0)
    }

    /** Returns the inputs of a loop that count its steps: from a constant on, to below another. */
    private fun counters(condition: Graph, body: Graph, reads: List<Tensor?>): Map<Int, LongRange> {
        val makers = HashMap<Int, Call>()
        for (call in condition.operations) call.writes.forEach { makers[it] = call }
        val ends = LinkedHashMap<Int, Long>()
        val asked = ArrayList(condition.outputs)
        var next = 0
        while (next < asked.size) { // it grows: both sides of an AND must hold
            val call = makers[asked[next++]]
            if (call == null || asked.size > DEPTH || call.reads.size != 2) continue
            if (call.name == "LOGICAL_AND") {
                asked.addAll(call.reads)
            } else if (call.name == "LESS" && call.reads[0] in condition.inputs) {
                val end = condition.tensors.getOrNull(call.reads[1])?.let(::only) ?: continue
                val place = condition.inputs.indexOf(call.reads[0])
                ends[place] = minOf(end, ends[place] ?: end)
            }
        }
        val steps = HashMap<Int, List<Int>>()
        for (call in body.operations) {
            if (call.name == "ADD" && call.writes.size == 1 && call.reads.size == 2) {
                steps[call.writes[0]] = call.reads
            }
        }
        val found = LinkedHashMap<Int, LongRange>()
        for ((place, end) in ends) {
            val (a, b) = steps[body.outputs[place]] ?: continue
            val counts = a == body.inputs[place] && b >= 0 && only(body.tensors[b]) == 1L
            val start = reads[place]?.let(::only)
            if (counts && start != null) found[place] = start..plus(end, -1)
        }
        return found
    }

    // of ranges, which are all equal where they are empty
    private fun ends(counters: Map<Int, LongRange>) =
        counters.mapValues { (_, range) -> range.first to range.last }

    /** Returns the number that a constant is, or `null`. */
    private fun only(tensor: Tensor): Long? =
        tensor.values?.singleOrNull()?.takeIf { it.counter == null }?.number

    /**
     * Returns the branches that only pass values on: those of a stage that a sample skips.
     *
     * What the stage would have given has a place in the caller's memory, where nothing is written
     * and nobody reads. So it may only be called where a condition holds.
     */
    private fun passing(): Set<Int> {
        val calls = graphs.flatMap { it.operations }.map { it.calls }.filter { it.isNotEmpty() }
        val yes = calls.map { it[0] }.toSet()
        val no = calls.map { it[1] }.toSet()
        return (yes - no).filter { it != 0 && graphs[it].operations.isEmpty() }.toSet()
    }

    /**
     * Returns the numbers of subgraphs, callers before what they call.
     *
     * @throws Damaged if one calls itself, or calls go too deep.
     */
    private fun callersFirst(): List<Int> {
        val calls = graphs.map { graph -> graph.operations.flatMap { it.calls }.toSet() }
        val finished = ArrayList<Int>()
        val depths = HashMap<Int, Int>() // of calls below; -1 while it is being visited

        fun visit(number: Int, above: Int): Int {
            if (depths[number] == -1 || above > DEPTH) throw Damaged("a subgraph calls itself")
            if (number !in depths) {
                depths[number] = -1
                val depth = calls[number].maxOfOrNull { visit(it, above + 1) } ?: -1
                depths[number] = depth + 1
                finished.add(number)
            }
            val depth = depths.getValue(number)
            if (above + depth > DEPTH) throw Damaged("subgraphs call each other too deep")
            return depth
        }

        for (number in graphs.indices) visit(number, 0)
        return finished.reversed()
    }

    /** Refuses a file that takes more work or memory than any device has. */
    private fun checkWork(order: List<Int>) {
        val works = LongArray(graphs.size)
        val counts = LongArray(graphs.size)
        for (number in order.reversed()) {
            val graph = graphs[number]
            works[number] = graph.work
            counts[number] = 1L + graph.operations.size
            for ((place, many) in graph.repeats) {
                val calls = graph.operations[place].calls
                val once = calls.fold(0L) { sum, i -> plus(sum, works[i]) }
                works[number] = plus(works[number], times(many, once))
                counts[number] = plus(counts[number], calls.sumOf { counts[it] })
            }
            if (works[number] > MOST_WORK || counts[number] > EXPANDED) {
                throw Damaged("it takes more work than any that the exporter writes")
            }
        }
        if (graphs.fold(0L) { sum, graph -> plus(sum, graph.bytes) } > MOST_BYTES) {
            throw Damaged("it takes more memory than any that the exporter writes")
        }
    }

    private companion object {
        const val DEPTH = 64 // of subgraphs that call subgraphs
        const val EXPANDED = 200_000L // operations, counted once per path of calls to them
        const val LONGEST = 1L shl 16 // steps of a loop
        const val MOST_WORK = 1L shl 39 // multiplications of a signature
        const val MOST_BYTES = 1L shl 32 // of what a device must hold at once
    }
}
