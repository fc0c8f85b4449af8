package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer

internal typealias Shape = List<Long>

/** An integer that is known: a number, or a counter (its input's place) plus a number. */
internal data class Value(val counter: Int?, val number: Long)

/** An operation is not as the exporter writes it. */
internal class Unlike(message: String) : Exception(message)

internal fun needs(condition: Boolean, what: String) {
    if (!condition) throw Unlike(what)
}

// Numbers of a file may be of any size; what overflows stays the greatest number there is.

internal fun times(a: Long, b: Long): Long {
    if (a == 0L || b == 0L) return 0
    val high = Math.abs(a.toDouble()) * Math.abs(b.toDouble())
    if (high < 9e18) return a * b
    return if ((a < 0) == (b < 0)) Long.MAX_VALUE else Long.MIN_VALUE
}

internal fun plus(a: Long, b: Long): Long {
    val sum = a + b
    if ((a xor sum) and (b xor sum) >= 0) return sum
    return if (a < 0) Long.MIN_VALUE else Long.MAX_VALUE
}

internal fun minus(a: Long, b: Long): Long {
    val difference = a - b
    if ((a xor b) and (a xor difference) >= 0) return difference
    return if (a < 0) Long.MIN_VALUE else Long.MAX_VALUE
}

internal fun product(sizes: Iterable<Long>): Long {
    if (sizes.any { it == 0L }) return 0
    return sizes.fold(1L, ::times)
}

/** A list of which a step of a loop writes one element: the part before, or behind it. */
internal class Part(val whole: Tensor, val side: String, val place: Value)

/**
 * A tensor as an operation sees it.
 *
 * @property letter its type: f float32, h float16, i int32, l int64, w int16, u uint8, b boolean;
 *   c int8 that counts, q int8 of one scale, Q int8 of a scale per channel.
 * @property shape `null`: a part of a list, which grows from step to step.
 * @property constant whether its values are in the file.
 * @property values what is known of it, if it is a constant of few integers, or a counter.
 * @property scale of q.
 * @property dimension the axis of Q's scales.
 * @property data its bytes, if it is a constant of integers.
 */
internal class Tensor(var letter: Char, val shape: Shape?, val constant: Boolean = false) {
    var values: List<Value>? = null
    var scale = 0.0
    var dimension = 0
    var data: ByteBuffer? = null
    var part: Part? = null

    val size: Long get() = product(shape ?: emptyList())

    /** Calls a function with each number of a constant of integers. */
    private inline fun each(use: (Long) -> Unit) {
        val bytes = data ?: return
        val size = when (letter) { 'i' -> 4; 'l' -> 8; 'w' -> 2; else -> 1 }
        for (at in 0..bytes.limit() - size step size) {
            use(
                when (letter) {
                    'i' -> bytes.getInt(at).toLong()
                    'l' -> bytes.getLong(at)
                    'w' -> bytes.getShort(at).toLong()
                    'u' -> bytes.get(at).toLong() and 255
                    else -> bytes.get(at).toLong()
                }
            )
        }
    }

    fun integers(): List<Long> = ArrayList<Long>().also { found -> each { found.add(it) } }

    /** The least and the greatest integer of a constant of integers. */
    val bounds: LongRange?
        get() {
            if (data == null || data?.limit() == 0) return null
            var low = Long.MAX_VALUE
            var high = Long.MIN_VALUE
            each {
                low = minOf(low, it)
                high = maxOf(high, it)
            }
            return low..high
        }

    fun isLike(other: Tensor) = letter == other.letter && shape == other.shape
}

/**
 * An operation with its tensors.
 *
 * @property options its table of options; `null`: all have their defaults.
 * @property counters place of a counter to its least and greatest number, in the body of a loop.
 */
internal class Operation(
    val kind: Int,
    val inputs: List<Tensor?>,
    val outputs: List<Tensor>,
    private val options: Table?,
    val counters: Map<Int, LongRange>,
) {
    fun given(number: Int): Tensor =
        inputs.getOrNull(number) ?: throw Unlike("reads what is not there")

    fun shape(number: Int = 0): Shape =
        given(number).shape ?: throw Unlike("reads a part of a list")

    fun has(number: Int) = inputs.getOrNull(number) != null

    /** Returns an option, an int32. */
    fun option(field: Int, default: Int = 0): Long =
        (options?.int(field, default) ?: default).toLong()

    /** Returns an option, an int8 or a boolean. */
    fun small(field: Int): Int = options?.byte(field) ?: 0

    fun optionVector(field: Int): List<Long> = options?.ints(field) ?: emptyList()

    /** Returns the values of a constant, a vector or one number. */
    fun numbers(number: Int, length: Int? = null): List<Long> {
        val tensor = given(number)
        val values = tensor.values
        if (values == null || values.any { it.counter != null }) {
            throw Unlike("does not read a constant where it must")
        }
        if ((tensor.shape ?: emptyList()).size > 2 || (length != null && values.size != length)) {
            throw Unlike("reads a constant of another length")
        }
        return values.map { it.number }
    }

    fun number(number: Int): Long = numbers(number, 1)[0]
}
