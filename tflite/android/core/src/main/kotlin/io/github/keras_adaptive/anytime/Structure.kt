package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer

/** Inputs and outputs of a signature, by name. */
internal class SignatureTensors(
    val inputs: Map<String, Tensor>,
    val outputs: Map<String, Tensor>,
)

/** An operation of a subgraph; `calls` are the subgraphs that it runs. */
internal class Call(
    val kind: Int,
    val reads: List<Int>,
    val writes: List<Int>,
    val options: Table?,
    val calls: List<Int>,
) {
    val name: String get() = Operations.KINDS.getValue(kind).name
}

/**
 * A subgraph.
 *
 * @property silent whether nothing computes one of its outputs.
 * @property counters in the body of a loop: place of an input that counts its steps to the least
 *   and greatest number it has.
 * @property repeats place of an operation that runs others to how often it may do so.
 */
internal class Graph(
    val tensors: List<Tensor>,
    val inputs: List<Int>,
    val outputs: List<Int>,
    val operations: List<Call>,
) {
    var silent = false
    var counters: Map<Int, LongRange>? = null
    var work = 0L
    var bytes = 0L
    val repeats = LinkedHashMap<Int, Long>()
}

/**
 * Checks the structure of a .tflite file before an interpreter, which would crash, opens it.
 *
 * In a file that [check] accepts, every offset is inside the file, every number of a tensor,
 * buffer, operation or subgraph within its list, and every operation as the exporter writes it.
 * The check's own work is bounded, whatever the file says. It follows the public schema of TFLite.
 */
internal object Structure {
    // by the number of a type: its letter, see Tensor, and its bytes
    private val TYPES = mapOf(
        0 to ('f' to 4), 1 to ('h' to 2), 2 to ('i' to 4), 3 to ('u' to 1), 4 to ('l' to 8),
        6 to ('b' to 1), 7 to ('w' to 2), 9 to ('c' to 1),
    )
    internal val BYTES = TYPES.values.toMap() + mapOf('q' to 1, 'Q' to 1)

    // what is more than this was not written by the exporter
    private const val OPERATIONS = 20_000
    private const val SUBGRAPHS = 5_000L
    private const val KINDS = 1_000L // of operations, versions counted
    private const val SIGNATURES = 1_100L
    private const val METADATA = 100L
    private const val INPUT = 1L shl 24 // numbers of an input of the network
    private const val OTHER_TYPE = "a tensor is of a kind that the exporter does not write"

    /**
     * Returns the inputs and outputs of every signature, by name.
     *
     * @throws Damaged if an interpreter could not read the file safely.
     */
    fun check(content: ByteBuffer): Map<String, SignatureTensors> {
        val model = Table.root(content)
        model.refuse(listOf(8, 9), "data in other files")
        val buffers = model.tables(4).map(::buffer)
        val codes = model.tables(1, KINDS).map(::kind)
        val tables = model.tables(2, SUBGRAPHS)
        if (tables.isEmpty()) throw Damaged("there is no subgraph")
        val graphs = ArrayList<Graph>()
        for (table in tables) {
            graphs.add(graph(table, buffers, codes, tables.size))
            if (graphs.sumOf { it.operations.size } > OPERATIONS) {
                throw Damaged("it has more operations than the exporter ever writes")
            }
        }
        Calls(graphs).check()
        for (entry in model.tables(6, METADATA)) {
            entry.vector(0)
            within(listOf(entry.unsigned(1)), buffers.size, "a buffer")
        }
        val found = LinkedHashMap<String, SignatureTensors>()
        for (signature in model.tables(7, SIGNATURES)) {
            val name = signature.text(2)
            if (name in found) throw Damaged("a signature is there twice")
            found[name] = signature(signature, graphs)
        }
        return found
    }

    /** Returns where the data of a buffer is. */
    private fun buffer(table: Table): Place {
        if (table.long(1) != 0L || table.long(2) != 0L) throw Damaged("data lies outside the model")
        return table.vector(0)
    }

    /** Returns the number of a builtin operation. */
    private fun kind(code: Table): Int {
        code.refuse(listOf(1), "a custom operation")
        return maxOf(code.byte(0), code.int(3))
    }

    private fun signature(signature: Table, graphs: List<Graph>): SignatureTensors {
        val number = signature.unsigned(4)
        within(listOf(number), graphs.size, "a subgraph")
        val graph = graphs[number.toInt()]
        if (graph.silent) throw Damaged("nothing computes an output")
        if (graph.inputs.any { graph.tensors[it].size > INPUT }) {
            throw Damaged("an input is larger than any that the exporter writes")
        }
        val sides = listOf(graph.inputs, graph.outputs).mapIndexed { side, wanted ->
            val entries = signature.tables(side)
            val numbers = entries.map { it.unsigned(1) }
            val names = entries.map { it.text(0) }
            val passed = wanted.map { it.toLong() }
            if (names.toSet().size < names.size || !passed.containsAll(numbers)) {
                throw Damaged("a signature names a tensor that its subgraph does not pass")
            }
            if (side == 0 && numbers.sorted() != passed.sorted()) {
                throw Damaged("a signature leaves out an input")
            }
            names.zip(numbers.map { graph.tensors[it.toInt()] }).toMap()
        }
        return SignatureTensors(sides[0], sides[1])
    }

    // ---- tensors

    private fun tensor(table: Table, buffers: List<Place>): Tensor {
        val shape = table.ints(0)
        val (letter, size) = TYPES[table.byte(1)]
            ?: throw Damaged("a tensor is of a type that the exporter does not write")
        val buffer = table.unsigned(2)
        within(listOf(buffer), buffers.size, "a buffer")
        val impossible = shape.size > 8 || shape.any { it !in 0 until (1L shl 28) }
        if (impossible || product(shape) >= 1L shl 31) {
            throw Damaged("a tensor has an impossible shape")
        }
        val place = buffers[buffer.toInt()]
        if (place.length != 0L && place.length != size * product(shape)) {
            throw Damaged("a constant is not as long as its shape says")
        }
        table.vector(3)
        table.refuse(listOf(9), "a tensor of variants")
        if (table.table(6) != null || table.byte(5) != 0 || table.unsigned(10) != 0L) {
            throw Damaged(OTHER_TYPE)
        }
        val grows = table.ints(7).any { it < 0 }
        val constant = place.length != 0L || (0L in shape && !grows)
        val tensor = Tensor(letter, if (grows && place.length == 0L) null else shape, constant)
        if (constant && letter in "iluwc") {
            tensor.data = table.file.part(place.start, place.length)
            table.file.spend(place.length / 4096)
            if (letter in "il" && product(shape) <= 64) {
                tensor.values = tensor.integers().map { Value(null, it) }
            }
        }
        table.table(4)?.let { quantize(tensor, it, shape) }
        return tensor
    }

    /** Checks the scales of a tensor and keeps what operations need of them. */
    private fun quantize(tensor: Tensor, quantization: Table, shape: Shape) {
        if (quantization.byte(4) != 0) throw Damaged(OTHER_TYPE)
        quantization.vector(0, 4)
        quantization.vector(1, 4)
        val scales = quantization.floats(2).map { it.toDouble() }
        val zeros = quantization.longs(3)
        val usual = scales.all { 1e-30 < it && it < 1e30 }
        if ((zeros.isNotEmpty() && zeros.size != scales.size) || !usual) {
            throw Damaged("a scale is impossible")
        }
        if (scales.size > 1) {
            tensor.dimension = quantization.int(6)
            within(listOf(tensor.dimension.toLong()), shape.size, "a dimension")
            if (scales.size.toLong() != shape[tensor.dimension]) {
                throw Damaged("there is not one scale per channel")
            }
        }
        if (scales.isNotEmpty() && tensor.letter == 'c') {
            if (zeros.size != scales.size || zeros.any { it !in -128..127 }) {
                throw Damaged("a zero point is impossible")
            }
            tensor.letter = if (scales.size == 1) 'q' else 'Q'
            tensor.scale = if (scales.size == 1) scales[0] else 0.0
        }
    }

    // ---- subgraphs

    /** Returns a subgraph; every number in it is within its list. */
    private fun graph(table: Table, buffers: List<Place>, codes: List<Int>, graphs: Int): Graph {
        val tensors = table.tables(0).map { tensor(it, buffers) }
        val inputs = table.ints(1)
        val outputs = table.ints(2)
        table.vector(4)
        within(inputs + outputs, tensors.size, "a tensor")
        val constants = inputs.any { tensors[it.toInt()].constant }
        if (inputs.toSet().size < inputs.size || constants) {
            throw Damaged("an input is a constant, or there twice")
        }
        val operations = table.tables(3).map { call(it, tensors.size, codes, graphs) }
        return Graph(tensors, inputs.map { it.toInt() }, outputs.map { it.toInt() }, operations)
    }

    private fun call(operator: Table, tensors: Int, codes: List<Int>, graphs: Int): Call {
        val number = operator.unsigned(0)
        within(listOf(number), codes.size, "an operation")
        val code = codes[number.toInt()]
        val kind = Operations.KINDS[code]
            ?: throw Damaged("operation $code is none that the exporter writes")
        val reads = operator.ints(1)
        val writes = operator.ints(2)
        within(reads, tensors, "a tensor", least = -1)
        within(writes, tensors, "a tensor")
        operator.refuse(listOf(5, 7, 8), "an operation of its own kind")
        if (operator.long(9) != 0L || operator.long(10) != 0L || operator.byte(11) != 0) {
            throw Damaged("an operation has options that the exporter does not write")
        }
        val options = operator.table(4)
        val found = operator.byte(3) and 255
        val fits = found == kind.options || (found == 0 && !kind.must)
        if ((options == null) != (found == 0) || !fits) {
            throw Damaged("${kind.name} has no options of its own")
        }
        var calls = emptyList<Int>()
        if (options != null && (code == Operations.IF || code == Operations.WHILE)) {
            val called = listOf(options.int(0), options.int(1))
            within(called.map { it.toLong() }, graphs, "a subgraph")
            calls = called
        }
        return Call(code, reads.map { it.toInt() }, writes.map { it.toInt() }, options, calls)
    }
}
