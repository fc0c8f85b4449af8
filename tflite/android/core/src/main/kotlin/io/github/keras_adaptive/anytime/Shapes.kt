package io.github.keras_adaptive.anytime

// What the outputs of an operation must be: rules that hold for many kinds, and those of
// arithmetic, of convolutions and of other operations with weights.

internal typealias ShapeRule = (Operation) -> List<Shape>

private const val OTHER_DIMENSIONS = "reads shapes of other dimensions"
private const val UNFIT = "reads shapes that do not fit each other"
private const val OPTION = "has an impossible option"
private const val CHANNELS = "has weights for other channels"
private const val SCALES = "has scales that do not fit each other"

internal fun axis(axis: Long, rank: Int): Int {
    needs(-rank <= axis && axis < rank, "has an axis that is not there")
    return (if (axis < 0) axis + rank else axis).toInt()
}

internal fun without(shape: Shape, axis: Int): Shape = shape.filterIndexed { i, _ -> i != axis }

internal fun with(shape: Shape, axis: Int, size: Long): Shape =
    shape.mapIndexed { i, n -> if (i == axis) size else n }

internal fun least(vararg shapes: Shape): Long = shapes.minOf { it.minOrNull() ?: Long.MAX_VALUE }

internal fun same(o: Operation): List<Shape> = listOf(o.shape())

internal fun last(o: Operation): List<Shape> {
    needs(o.shape().isNotEmpty(), "reads a single number")
    return listOf(o.shape())
}

internal fun allSame(o: Operation): List<Shape> {
    needs(o.inputs.indices.all { o.shape(it) == o.shape() }, "reads different shapes")
    return listOf(o.shape())
}

internal fun broadcast(shapes: List<Shape>): Shape {
    val rank = shapes.maxOf { it.size }
    return List(rank) { place ->
        val sizes = shapes.map { it.getOrElse(place - rank + it.size) { 1L } }
        val wide = sizes.filter { it != 1L }.toSet()
        needs(wide.size < 2, UNFIT)
        wide.firstOrNull() ?: 1L
    }
}

internal fun broadcasting(rank: Int): ShapeRule = { o ->
    val shapes = o.inputs.indices.map { o.shape(it) }
    val found = broadcast(shapes)
    needs(found.size <= rank || shapes.all { it == found }, "reads shapes of too many dimensions")
    listOf(found)
}

internal fun compare(o: Operation): List<Shape> {
    needs(o.given(0).scale < 1 && o.given(1).scale < 1, "has an impossible scale")
    return broadcasting(4)(o)
}

private fun twice(o: Operation) = 2 * maxOf(o.given(0).scale, o.given(1).scale)

internal fun add(o: Operation): List<Shape> {
    val out = o.outputs[0]
    // the runtime ends the program where this is 1 or more
    if (out.letter == 'q') needs(twice(o) < (1 shl 20) * out.scale, SCALES)
    return broadcasting(6)(o)
}

internal fun squaredDifference(o: Operation): List<Shape> {
    val out = o.outputs[0]
    if (out.letter == 'q') needs(twice(o) * twice(o) < (1 shl 14) * out.scale, SCALES)
    return broadcasting(4)(o)
}

internal fun divide(rank: Int): ShapeRule = { o ->
    val divisor = o.given(1)
    if (divisor.letter in "ilwcu") { // division by 0, and of the least number by -1, is a crash
        needs((divisor.bounds?.first ?: 0) > 0, "may divide by 0")
    }
    broadcasting(rank)(o)
}

internal fun select(o: Operation): List<Shape> {
    val condition = o.shape(0)
    val a = o.shape(1)
    val b = o.shape(2)
    needs(a == b && (condition == a || condition.isEmpty()), "reads different shapes")
    return listOf(a)
}

internal fun prelu(o: Operation): List<Shape> {
    val found = broadcasting(4)(o)
    needs(found[0] == o.shape(), UNFIT)
    return found
}

// ---- what slides

private fun slid(size: Long, kernel: Long, stride: Long, dilation: Long, padding: Int): Long {
    val most = maxOf(kernel, stride, dilation)
    needs(minOf(minOf(size, kernel), minOf(stride, dilation)) > 0 && most < 1 shl 16, OPTION)
    needs(padding == 0 || padding == 1, OPTION)
    if (padding == 0) return (size + stride - 1) / stride
    val reach = (kernel - 1) * dilation + 1
    needs(reach <= size, "slides a kernel that is larger than what it slides on")
    return (size - reach) / stride + 1
}

/** Checks that weights of integers are constants, with scales along their outputs, and the bias. */
private fun weights(o: Operation, number: Int, channels: Long, axis: Int) {
    val weights = o.given(number)
    if (weights.letter in "qQ") {
        val alike = weights.letter == o.outputs[0].letter
        needs(weights.constant || alike, "has weights that change")
        needs(weights.letter == 'q' || weights.dimension == axis, "has scales of another axis")
    }
    val bias = if (number == 1 && o.kind !in Operations.TRANSPOSED) 2 else 3
    needs(!o.has(bias) || o.shape(bias) == listOf(channels), "has a bias of another length")
}

internal fun conv(o: Operation): List<Shape> {
    val x = o.shape(0)
    val w = o.shape(1)
    needs(x.size == 4 && w.size == 4 && least(x, w) > 0, OTHER_DIMENSIONS)
    val groups = x[3] / w[3]
    needs(groups > 0 && x[3] % w[3] == 0L && w[0] % groups == 0L, CHANNELS)
    weights(o, 1, w[0], 0)
    val padding = o.small(0)
    val high = slid(x[1], w[1], o.option(2), o.option(5, 1), padding)
    val wide = slid(x[2], w[2], o.option(1), o.option(4, 1), padding)
    return listOf(listOf(x[0], high, wide, w[0]))
}

internal fun depthwise(o: Operation): List<Shape> {
    val x = o.shape(0)
    val w = o.shape(1)
    needs(x.size == 4 && w.size == 4 && least(x, w) > 0, OTHER_DIMENSIONS)
    needs(w[0] == 1L && w[3] == times(x[3], o.option(3)), CHANNELS)
    weights(o, 1, w[3], 3)
    val padding = o.small(0)
    val high = slid(x[1], w[1], o.option(2), o.option(6, 1), padding)
    val wide = slid(x[2], w[2], o.option(1), o.option(5, 1), padding)
    return listOf(listOf(x[0], high, wide, w[3]))
}

private fun slid3d(o: Operation, sizes: Shape, w: Shape): Shape {
    val steps = listOf(1, 3, 2).map { o.option(it) }
    val apart = listOf(5, 7, 6).map { o.option(it, 1) }
    return List(3) { slid(sizes[it], w[it], steps[it], apart[it], o.small(0)) }
}

internal fun conv3d(o: Operation): List<Shape> {
    val x = o.shape(0)
    val w = o.shape(1)
    needs(x.size == 5 && w.size == 5 && least(x, w) > 0, OTHER_DIMENSIONS)
    needs(x[4] == w[3], CHANNELS)
    weights(o, 1, w[4], 4)
    return listOf(listOf(x[0]) + slid3d(o, x.subList(1, 4), w) + w[4])
}

internal fun transposedConv(o: Operation): List<Shape> {
    val out = o.numbers(0, 4)
    val w = o.shape(1)
    val x = o.shape(2)
    needs(x.size == 4 && w.size == 4 && least(x, w, out) > 0, OTHER_DIMENSIONS)
    needs(x[3] == w[3] && out[3] == w[0] && out[0] == x[0], CHANNELS)
    weights(o, 1, w[0], 0)
    val padding = o.small(0)
    val high = slid(out[1], w[1], o.option(2), 1, padding)
    val wide = slid(out[2], w[2], o.option(1), 1, padding)
    needs(listOf(high, wide) == x.subList(1, 3), "writes another shape than it says")
    return listOf(out)
}

internal fun transposedConv3d(o: Operation): List<Shape> {
    val out = o.numbers(0, 5)
    val w = o.shape(1)
    val x = o.shape(2)
    needs(x.size == 5 && w.size == 5 && least(x, w, out) > 0, OTHER_DIMENSIONS)
    needs(x[4] == w[4] && out[4] == w[3] && out[0] == x[0], CHANNELS)
    weights(o, 1, w[3], 3)
    val fits = slid3d(o, out.subList(1, 4), w) == x.subList(1, 4)
    needs(fits, "writes another shape than it says")
    return listOf(out)
}

internal fun pool(o: Operation): List<Shape> {
    val x = o.shape()
    needs(x.size == 4, OTHER_DIMENSIONS)
    val padding = o.small(0)
    val high = slid(x[1], o.option(4), o.option(2), 1, padding)
    val wide = slid(x[2], o.option(3), o.option(1), 1, padding)
    return listOf(listOf(x[0], high, wide, x[3]))
}

internal fun dense(o: Operation): List<Shape> {
    val x = o.shape(0)
    val w = o.shape(1)
    needs(w.size == 2 && x.isNotEmpty() && least(x, w) > 0, OTHER_DIMENSIONS)
    needs(o.small(1) == 0, OPTION)
    weights(o, 1, w[0], 0)
    if (o.small(2) != 0) {
        needs(x.last() == w[1], CHANNELS)
        return listOf(x.dropLast(1) + w[0])
    }
    val size = product(x)
    needs(size % w[1] == 0L, CHANNELS)
    return listOf(listOf(size / w[1], w[0]))
}

internal fun matmul(o: Operation): List<Shape> {
    val x = o.shape(0)
    val y = o.shape(1)
    val out = o.outputs[0]
    if (out.letter == 'q') { // the runtime prepares no kernel for more, and runs it all the same
        needs(o.given(0).scale * o.given(1).scale < (1 shl 8) * out.scale, SCALES)
    }
    needs(x.size in 2..5 && y.size in 2..5, OTHER_DIMENSIONS)
    needs(o.given(1).letter == o.given(0).letter || o.given(1).constant, "has weights that change")
    val (rows, inner) = x.takeLast(2).let { if (o.small(0) == 0) it else it.reversed() }
    val (inside, columns) = y.takeLast(2).let { if (o.small(1) == 0) it else it.reversed() }
    needs(inner == inside, UNFIT)
    return listOf(broadcast(listOf(x.dropLast(2), y.dropLast(2))) + rows + columns)
}

internal fun resize(o: Operation): List<Shape> {
    val x = o.shape()
    val size = o.numbers(1, 2)
    val aligned = if (o.kind == 23) 2 else 0
    needs(x.size == 4 && least(size) > 0, OTHER_DIMENSIONS)
    needs(o.small(aligned) == 0 || o.small(aligned + 1) == 0, OPTION)
    return listOf(listOf(x[0]) + size + x[3])
}

internal fun spaceToDepth(o: Operation): List<Shape> {
    val x = o.shape()
    val block = o.option(0)
    needs(x.size == 4 && block > 0, OPTION)
    val area = times(block, block)
    if (o.kind == 26) {
        needs(x[1] % block == 0L && x[2] % block == 0L, OPTION)
        return listOf(listOf(x[0], x[1] / block, x[2] / block, times(x[3], area)))
    }
    needs(x[3] % area == 0L, OPTION)
    return listOf(listOf(x[0], times(x[1], block), times(x[2], block), x[3] / area))
}

internal fun spaceToBatch(o: Operation): List<Shape> {
    val x = o.shape()
    val block = o.numbers(1)
    needs(x.size in 3..4 && block.size == x.size - 2, OTHER_DIMENSIONS)
    needs(o.shape(2) == listOf(block.size.toLong(), 2L) && least(block) > 0, OPTION)
    val edges = o.numbers(2)
    needs(least(edges) >= 0, "has impossible margins")
    val many = product(block)
    val ends = block.indices.map { edges[2 * it] + edges[2 * it + 1] }
    val inner = x.subList(1, 1 + block.size)
    if (o.kind == 38) {
        val fits = inner.indices.all { (inner[it] + ends[it]) % block[it] == 0L }
        needs(fits, "has impossible margins")
        val sizes = inner.indices.map { (inner[it] + ends[it]) / block[it] }
        return listOf(listOf(times(x[0], many)) + sizes + x.last())
    }
    val sizes = inner.indices.map { times(inner[it], block[it]) - ends[it] }
    needs(x[0] % many == 0L && least(sizes) > 0, "has impossible margins")
    return listOf(listOf(x[0] / many) + sizes + x.last())
}

internal fun response(o: Operation): List<Shape> {
    needs(o.shape().size == 4 && o.option(0) in 0 until (1 shl 16), OPTION)
    return listOf(o.shape())
}
