package io.github.keras_adaptive.anytime

// What the outputs must be of operations that move, choose and sum up numbers.

private const val UNFIT = "reads shapes that do not fit each other"
private const val OPTION = "has an impossible option"
private const val NOT_THERE = "takes what is not there"
private const val PART = "takes an unknown part"

internal fun reduce(o: Operation): List<Shape> {
    val x = o.shape()
    val given = o.numbers(1)
    val axes = given.map { axis(it, x.size) }.toSet()
    needs(given.size <= 8, "has too many axes")
    if (o.small(0) != 0) return listOf(x.mapIndexed { i, n -> if (i in axes) 1L else n })
    return listOf(x.filterIndexed { i, _ -> i !in axes })
}

internal fun arg(o: Operation): List<Shape> {
    val x = o.shape()
    val axis = axis(o.number(1), x.size)
    needs(x[axis] > 0, "reads nothing")
    writtenAs(o)
    return listOf(without(x, axis))
}

private fun writtenAs(o: Operation) {
    val letter = when (o.small(0)) { 2 -> 'i'; 4 -> 'l'; else -> null }
    needs(letter == o.outputs[0].letter, "writes another type than its option says")
}

internal fun reshape(o: Operation): List<Shape> {
    val size = product(o.shape())
    var found = if (o.has(1)) o.numbers(1) else o.optionVector(0)
    val known = product(found.filter { it != -1L })
    if (found.count { it == -1L } == 1 && known > 0) {
        found = found.map { if (it == -1L) size / known else it }
    }
    val fits = (found.minOrNull() ?: 0) >= 0 && product(found) == size
    needs(fits, "reshapes to another size")
    return listOf(found)
}

internal fun squeeze(o: Operation): List<Shape> {
    val x = o.shape()
    var axes = o.optionVector(0).map { axis(it, x.size) }.toSet()
    if (axes.isEmpty()) axes = x.indices.filter { x[it] == 1L }.toSet()
    needs(axes.all { x[it] == 1L }, "leaves out an axis that is not single")
    return listOf(x.filterIndexed { i, _ -> i !in axes })
}

private fun inserted(x: Shape, axis: Int, size: Long): Shape =
    x.subList(0, axis) + size + x.subList(axis, x.size)

internal fun expand(o: Operation): List<Shape> {
    val x = o.shape()
    return listOf(inserted(x, axis(o.number(1), x.size + 1), 1))
}

internal fun transpose(o: Operation): List<Shape> {
    val x = o.shape()
    val order = o.numbers(1)
    val fits = order.sorted() == x.indices.map { it.toLong() } && x.size <= 6
    needs(fits, "has an impossible order")
    return listOf(order.map { x[it.toInt()] })
}

internal fun slice(o: Operation): List<Shape> {
    val x = o.shape()
    val values = listOf(1, 2).map { o.given(it).values }
    if (values.any { v -> v != null && v.any { it.counter != null } }) {
        return listOf(part(o, x, values[0], values[1]))
    }
    val begin = o.numbers(1, x.size)
    val size = o.numbers(2, x.size)
    needs(x.size <= 5, "reads shapes of too many dimensions")
    val found = x.indices.map { if (size[it] == -1L) x[it] - begin[it] else size[it] }
    val fits = x.indices.all {
        minOf(begin[it], found[it]) >= 0 && plus(begin[it], found[it]) <= x[it]
    }
    needs(fits, "takes a part that is not there")
    return listOf(found)
}

/** Marks the part of a list before, or behind, the place that a step of a loop writes. */
private fun part(o: Operation, x: Shape, from: List<Value>?, many: List<Value>?): Shape {
    val out = o.outputs[0]
    val begin = from ?: throw Unlike(PART)
    val size = many ?: throw Unlike(PART)
    needs(out.shape == null && begin.size == x.size && size.size == x.size && x.isNotEmpty(), PART)
    val plain = List(x.size) { Value(null, 0) }
    val rest = List(x.size) { Value(null, -1) }
    val isHead = begin == plain && size.drop(1) == rest.drop(1)
    val isTail = size == rest && begin.drop(1) == plain.drop(1)
    needs(isHead || isTail, PART)
    val place = if (isHead) size[0] else begin[0]
    val steps = o.counters[place.counter]
    needs(place.counter != null && steps != null, PART)
    val fits = plus(steps!!.first, place.number) >= 0 && plus(steps.last, place.number) <= x[0]
    needs(fits, "takes a part that is not there")
    out.part = Part(o.given(0), if (isHead) "head" else "tail", place)
    return x
}

internal fun stridedSlice(o: Operation): List<Shape> {
    val x = o.shape()
    val begin = o.numbers(1)
    val end = o.numbers(2, begin.size)
    val step = o.numbers(3, begin.size)
    val (begins, ends, ellipsis, new, shrink) = List(5) { o.option(it) }
    val plain = ellipsis == 0L && new == 0L && o.small(5) == 0
    needs(plain && begin.size <= x.size && x.size <= 5, OPTION)
    val found = ArrayList<Long>()
    for ((i, n) in x.withIndex()) {
        if (i >= begin.size) {
            found.add(n)
            continue
        }
        needs(step[i] != 0L, OPTION)
        if (shrink shr i and 1 != 0L) {
            needs(step[i] > 0, OPTION)
            val place = if (begins shr i and 1 != 0L) 0 else begin[i]
            needs(-n <= place && place < n, "takes a part that is not there")
            continue
        }
        val first = begin[i].takeIf { begins shr i and 1 == 0L }
        val last = end[i].takeIf { ends shr i and 1 == 0L }
        found.add(count(first, last, step[i], n))
    }
    return listOf(found)
}

/** Returns how many numbers a slice takes of a dimension, as Python's slices do. */
private fun count(first: Long?, last: Long?, step: Long, size: Long): Long {
    val low = if (step > 0) 0L else -1L
    val high = if (step > 0) size else size - 1
    fun within(place: Long) = (if (place < 0) place + size else place).coerceIn(low, high)
    val start = if (first != null) within(first) else if (step > 0) low else high
    val stop = if (last != null) within(last) else if (step > 0) high else low
    if (step > 0) return if (start < stop) (stop - start - 1) / step + 1 else 0
    return if (start > stop) (stop - start + 1) / step + 1 else 0
}

internal fun pad(o: Operation): List<Shape> {
    val x = o.shape()
    val fits = o.shape(1) == listOf(x.size.toLong(), 2L) && x.size <= 5
    needs(fits, "has impossible margins")
    val margins = o.numbers(1)
    needs(margins.all { it >= 0 }, "has impossible margins")
    needs(o.kind != 60 || o.given(2).size == 1L, "pads with several numbers")
    if (o.kind == 100) {
        val mode = o.small(0)
        needs(mode == 0 || mode == 1, OPTION)
        val short = margins.indices.all { margins[it] <= x[it / 2] - 1 + mode }
        needs(short, "has impossible margins")
    }
    return listOf(x.mapIndexed { i, n -> plus(plus(n, margins[2 * i]), margins[2 * i + 1]) })
}

/** Returns the known values of all inputs, one after the other, if they are all known. */
private fun joined(o: Operation): List<Value>? {
    val parts = o.inputs.map { it?.values ?: return null }
    return parts.flatten()
}

internal fun concatenate(o: Operation): List<Shape> {
    val parts = o.inputs.filterNotNull().map { it.part }
    if (parts.any { it != null }) return listOf(setInList(o, parts))
    val x = o.shape()
    val axis = axis(o.option(0), x.size)
    val shapes = o.inputs.indices.map { o.shape(it) }
    val fits = shapes.all { it.size == x.size && without(it, axis) == without(x, axis) }
    needs(fits, UNFIT)
    if (x.size == 1) joined(o)?.let { o.outputs[0].values = it }
    return listOf(with(x, axis, shapes.fold(0L) { sum, shape -> plus(sum, shape[axis]) }))
}

/** Returns the shape of a list of which a step of a loop has written one element anew. */
private fun setInList(o: Operation, parts: List<Part?>): Shape {
    val unfit = "joins parts that do not fit each other"
    needs(parts.size == 3 && parts[1] == null, "joins parts")
    val head = parts[0] ?: throw Unlike("joins parts")
    val tail = parts[2] ?: throw Unlike("joins parts")
    val whole = head.whole.shape ?: throw Unlike(unfit)
    val follows = tail.place == Value(head.place.counter, head.place.number + 1)
    needs(head.side == "head" && tail.side == "tail" && head.whole === tail.whole, unfit)
    needs(follows && o.option(0) == 0L && o.shape(1) == with(whole, 0, 1), unfit)
    return whole
}

internal fun pack(o: Operation): List<Shape> {
    val x = allSame(o)[0]
    needs(o.option(0) == o.inputs.size.toLong(), OPTION)
    val axis = axis(o.option(1), x.size + 1)
    if (x.isEmpty()) joined(o)?.let { o.outputs[0].values = it }
    return listOf(inserted(x, axis, o.inputs.size.toLong()))
}

internal fun unpack(o: Operation): List<Shape> {
    val x = o.shape()
    val axis = axis(o.option(1), x.size)
    needs(o.option(0) == x[axis] && x[axis] == o.outputs.size.toLong(), OPTION)
    return List(o.outputs.size) { without(x, axis) }
}

internal fun split(o: Operation): List<Shape> {
    val x = o.shape(1)
    val many = o.outputs.size.toLong()
    val axis = axis(o.number(0), x.size)
    val fits = o.option(0) == many && x[axis] % many == 0L
    needs(fits, "splits into another number of parts")
    return List(o.outputs.size) { with(x, axis, x[axis] / many) }
}

internal fun splitUnequal(o: Operation): List<Shape> {
    val x = o.shape()
    val many = o.outputs.size
    val axis = axis(o.number(2), x.size)
    var sizes = o.numbers(1, many)
    needs(o.option(0) == many.toLong(), "splits into another number of parts")
    if (sizes.count { it == -1L } == 1) {
        val rest = sizes.fold(x[axis] - 1) { left, size -> plus(left, -size) }
        sizes = sizes.map { if (it == -1L) rest else it }
    }
    val fits = sizes.all { it >= 0 } && sizes.fold(0L, ::plus) == x[axis]
    needs(fits, "splits into other sizes")
    return sizes.map { with(x, axis, it) }
}

internal fun gather(o: Operation): List<Shape> {
    val x = o.shape(0)
    val index = o.shape(1)
    val batch = o.option(1)
    val axis = axis(o.option(0), x.size)
    val bounds = o.given(1).bounds
    val fits = batch in 0..minOf(axis, index.size) &&
        x.take(batch.toInt()) == index.take(batch.toInt())
    needs(fits, "has other batches")
    needs(bounds == null || (bounds.first >= 0 && bounds.last < x[axis]), NOT_THERE)
    return listOf(x.take(axis) + index.drop(batch.toInt()) + x.drop(axis + 1))
}

internal fun gatherNd(o: Operation): List<Shape> {
    val x = o.shape(0)
    val index = o.shape(1)
    needs(index.isNotEmpty() && index.last() in 1..x.size, NOT_THERE)
    return listOf(index.dropLast(1) + x.drop(index.last().toInt()))
}

internal fun tile(o: Operation): List<Shape> {
    val x = o.shape()
    val many = o.numbers(1, x.size)
    needs(many.all { it > 0 }, OPTION)
    return listOf(x.indices.map { times(x[it], many[it]) })
}

internal fun broadcastTo(o: Operation): List<Shape> {
    val found = o.numbers(1)
    needs(broadcast(listOf(o.shape(), found)) == found, UNFIT)
    return listOf(found)
}

internal fun fill(o: Operation): List<Shape> {
    needs(o.given(1).size == 1L, "fills with several numbers")
    return listOf(o.numbers(0))
}

internal fun oneHot(o: Operation): List<Shape> {
    val x = o.shape()
    val depth = o.number(1)
    val axis = axis(o.option(0), x.size + 1)
    needs(depth >= 0 && o.given(2).size == 1L && o.given(3).size == 1L, OPTION)
    return listOf(inserted(x, axis, depth))
}

internal fun topK(o: Operation): List<Shape> {
    val x = o.shape()
    val k = o.number(1)
    needs(x.isNotEmpty() && 0 < k && k <= x.last(), "takes more than there is")
    return List(2) { x.dropLast(1) + k }
}

internal fun along(o: Operation): List<Shape> {
    val x = o.shape()
    val axes = o.numbers(1)
    val found = axes.map { axis(it, x.size) }.toSet()
    needs(found.size in 1..8 && found.size == axes.size, "has no axis, or one twice")
    return listOf(x)
}

internal fun scatter(o: Operation): List<Shape> {
    val index = o.shape(0)
    val found = o.numbers(2)
    needs(index.isNotEmpty() && index.last() in 1..found.size, "writes what is not there")
    needs(least(found) > 0, "writes what is not there")
    val fits = o.shape(1) == index.dropLast(1) + found.drop(index.last().toInt())
    needs(fits, "reads shapes that do not fit")
    return listOf(found)
}

internal fun segments(o: Operation): List<Shape> {
    val x = o.shape(0)
    val ids = o.shape(1)
    val many = o.number(2)
    val bounds = o.given(1).bounds
    needs(many > 0 && x.take(ids.size) == ids, UNFIT)
    val fits = bounds != null && bounds.first >= 0 && bounds.last < many
    needs(fits, "writes what is not there")
    return listOf(listOf(many) + x.drop(ids.size))
}

internal fun update(o: Operation): List<Shape> {
    val x = o.shape(0)
    val new = o.shape(1)
    needs(o.shape(2) == listOf(x.size.toLong()), "has a place of other dimensions")
    val fits = new.size == x.size && new.indices.all { new[it] <= x[it] }
    needs(fits, "writes what is not there")
    return listOf(x)
}

internal fun shapeOf(o: Operation): List<Shape> {
    writtenAs(o)
    return listOf(listOf(o.shape().size.toLong()))
}
