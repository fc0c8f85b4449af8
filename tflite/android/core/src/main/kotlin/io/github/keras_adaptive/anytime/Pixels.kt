package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

/**
 * How a picture becomes the network's pixels, as the file says: scaled until it covers the size,
 * bilinear with antialiasing, and cut out of the middle. Within one level of Python's.
 *
 * @property channels 3 for RGB, or 1 for gray.
 * @property margin pictures are scaled until they cover this many times the size.
 */
public class PixelRule @JvmOverloads constructor(
    public val height: Int,
    public val width: Int,
    public val channels: Int,
    public val margin: Double = 1.0,
) {
    init {
        for ((name, side) in listOf("height" to height, "width" to width)) {
            require(side in 1..SIDE) {
                "`$name` of a rule must be an integer from 1 to $SIDE. Received: $name=$side"
            }
        }
        require(channels == 1 || channels == 3) {
            "`channels` of a rule must be 3, for RGB, or 1, for gray. Received: channels=$channels"
        }
        require(margin >= 1 && margin <= MARGIN) {
            "`margin` of a rule must be a number from 1 to 16. Received: margin=$margin"
        }
    }

    /** Returns the pixels that a network takes, row by row. */
    public fun resize(picture: Picture): ByteArray {
        val source = picture.inChannels(channels)
        val rowsDecide = height.toLong() * source.width >= width.toLong() * source.height
        val wanted = if (rowsDecide) height else width
        val side = if (rowsDecide) source.height else source.width
        val columns = Weights(source.width, width, scaled(source.width, width, wanted, side))
        val rows = Weights(source.height, height, scaled(source.height, height, wanted, side))
        val wide = columns.alongRows(source.pixels, rows.reads, source.width, channels)
        return rows.alongColumns(wide, width * channels)
    }

    private fun scaled(length: Int, least: Int, wanted: Int, side: Int): Long =
        max(least.toLong(), floor(margin * wanted * length / side + 0.5).toLong())

    /**
     * What each of `kept` pixels is the mean of, out of the middle of a side scaled to `scaled`.
     *
     * Weights are integers, of 22 binary places, as Pillow's are.
     */
    private class Weights(length: Int, private val kept: Int, scaled: Long) {
        private val first = IntArray(kept)
        private val weights: Array<IntArray>

        /** The pixels of the side that have a weight. */
        val reads: IntRange

        init {
            // where the kept part begins and ends, which Pillow takes as float32
            val start = (((scaled - kept) / 2).toDouble() * length / scaled).toFloat()
            val end = (((scaled - kept) / 2 + kept).toDouble() * length / scaled).toFloat()
            val scale = (end - start).toDouble() / kept
            val reach = max(scale, 1.0)
            weights = Array(kept) { i ->
                val center = start + (i + 0.5) * scale
                val low = max((center - reach + 0.5).toInt(), 0)
                val high = min((center + reach + 0.5).toInt(), length)
                first[i] = low
                val found = DoubleArray(high - low) {
                    max(0.0, 1 - Math.abs((it + low - center + 0.5) * (1 / reach)))
                }
                val sum = found.sum()
                IntArray(found.size) { floor(found[it] / sum * ONE + 0.5).toInt() }
            }
            reads = first.min()..weights.indices.maxOf { first[it] + weights[it].size - 1 }
        }

        fun alongRows(pixels: ByteArray, rows: IntRange, width: Int, channels: Int): ByteArray {
            val found = ByteArray(rows.count() * kept * channels)
            var at = 0
            for (row in rows) for (i in 0 until kept) for (c in 0 until channels) {
                found[at++] = mean(i, pixels, (row * width + first[i]) * channels + c, channels)
            }
            return found
        }

        /** Of pixels whose rows are those that are read. */
        fun alongColumns(pixels: ByteArray, width: Int): ByteArray {
            val found = ByteArray(kept * width)
            for (i in 0 until kept) for (column in 0 until width) {
                val start = (first[i] - reads.first) * width + column
                found[i * width + column] = mean(i, pixels, start, width)
            }
            return found
        }

        private fun mean(i: Int, pixels: ByteArray, start: Int, step: Int): Byte {
            var sum = ONE / 2
            var at = start
            for (weight in weights[i]) {
                sum += weight * (pixels[at].toInt() and 255)
                at += step
            }
            return (sum shr BITS).coerceIn(0, 255).toByte()
        }
    }

    private companion object {
        const val SIDE = 1 shl 14
        const val MARGIN = 16.0
        const val BITS = 22
        const val ONE = 1 shl BITS
    }
}

/**
 * A decoded picture: 8 bits per channel, row by row.
 *
 * @property channels 3, for RGB, or 1, for gray.
 */
public class Picture(
    public val pixels: ByteArray,
    public val height: Int,
    public val width: Int,
    public val channels: Int,
) {
    init {
        require(channels == 1 || channels == 3) {
            "`channels` must be 3, for RGB, or 1, for gray. Received: channels=$channels"
        }
        requireSize(height, width)
        require(pixels.size == height * width * channels) {
            "`pixels` must be height * width * channels bytes. Received: ${pixels.size} bytes " +
                "for height=$height, width=$width, channels=$channels"
        }
    }

    internal fun inChannels(wanted: Int): Picture {
        if (wanted == channels) return this
        val count = height * width
        val found = ByteArray(count * wanted)
        for (i in 0 until count) {
            if (wanted == 3) {
                for (c in 0 until 3) found[3 * i + c] = pixels[i]
            } else {
                val (red, green, blue) = List(3) { pixels[3 * i + it].toInt() and 255 }
                val gray = 19595 * red + 38470 * green + 7471 * blue + 32768 shr 16
                found[i] = gray.toByte()
            }
        }
        return Picture(found, height, width, wanted)
    }

    /** Returns the picture turned to the right by 0, 90, 180 or 270 degrees. */
    public fun rotated(degrees: Int): Picture {
        require(degrees % 90 == 0) {
            "`degrees` must be a multiple of 90. Received: degrees=$degrees"
        }
        val turns = Math.floorMod(degrees / 90, 4)
        if (turns == 0) return this
        val sideways = turns % 2 == 1
        val found = ByteArray(pixels.size)
        val rows = if (sideways) width else height
        val columns = if (sideways) height else width
        for (y in 0 until rows) for (x in 0 until columns) {
            val row = when (turns) { 1 -> height - 1 - x; 2 -> height - 1 - y; else -> x }
            val column = when (turns) { 1 -> y; 2 -> width - 1 - x; else -> width - 1 - y }
            val from = (row * width + column) * channels
            val to = (y * columns + x) * channels
            for (c in 0 until channels) found[to + c] = pixels[from + c]
        }
        return Picture(found, rows, columns, channels)
    }

    public companion object {
        private const val PIXELS = 1 shl 27 // of a picture

        private fun requireSize(height: Int, width: Int) {
            require(height > 0 && width > 0 && height.toLong() * width <= PIXELS) {
                "A picture must have 1 to $PIXELS pixels. Received: height=$height, width=$width"
            }
        }

        /**
         * Returns what `Bitmap.getPixels` gives as a picture; what is transparent lies over white.
         *
         * @param argb one number per pixel, row by row.
         */
        @JvmStatic
        public fun fromArgb(argb: IntArray, height: Int, width: Int): Picture {
            requireSize(height, width)
            require(argb.size == height * width) {
                "`argb` must be height * width numbers. Received: ${argb.size} for " +
                    "height=$height, width=$width"
            }
            val found = ByteArray(3 * argb.size)
            for ((i, color) in argb.withIndex()) {
                val opaque = color ushr 24
                for (c in 0 until 3) {
                    val value = color shr 16 - 8 * c and 255
                    val over = opaque * value + (255 - opaque) * 255 + 127
                    found[3 * i + c] = (over / 255).toByte()
                }
            }
            return Picture(found, height, width, 3)
        }

        /** Returns a frame of the old camera as a picture: all of Y, then V and U in turn. */
        @JvmStatic
        public fun fromNv21(nv21: ByteArray, height: Int, width: Int): Picture {
            requireSize(height, width)
            val chroma = 2 * ((width + 1) / 2) * ((height + 1) / 2)
            require(nv21.size >= height * width + chroma) {
                "`nv21` must be ${height * width + chroma} bytes. Received: ${nv21.size} for " +
                    "height=$height, width=$width"
            }
            val bytes = ByteBuffer.wrap(nv21)
            val row = 2 * ((width + 1) / 2)
            val start = height * width
            val y = Plane(bytes, width, 1)
            val u = Plane(bytes, row, 2, start + 1)
            return fromYuv(y, u, Plane(bytes, row, 2, start), height, width)
        }

        /**
         * Returns a frame of `YUV_420_888` as a picture, in the full range that cameras use.
         *
         * @param y one number per pixel.
         * @param u for each 2 x 2 pixels.
         * @param v likewise.
         */
        @JvmStatic
        public fun fromYuv(y: Plane, u: Plane, v: Plane, height: Int, width: Int): Picture {
            requireSize(height, width)
            y.require("y", height, width)
            u.require("u", (height + 1) / 2, (width + 1) / 2)
            v.require("v", (height + 1) / 2, (width + 1) / 2)
            val found = ByteArray(3 * height * width)
            var at = 0
            for (row in 0 until height) for (column in 0 until width) {
                val luma = y.at(row, column) shl 16
                val blue = u.at(row / 2, column / 2) - 128
                val red = v.at(row / 2, column / 2) - 128
                // 1.402, 0.344136, 0.714136 and 1.772 times 65536
                found[at++] = level(luma + 91881 * red)
                found[at++] = level(luma - 22553 * blue - 46802 * red)
                found[at++] = level(luma + 116130 * blue)
            }
            return Picture(found, height, width, 3)
        }

        private fun level(value: Int): Byte = (value + 32768 shr 16).coerceIn(0, 255).toByte()
    }
}

/**
 * A plane of a frame, as `Image.Plane` has it.
 *
 * @property rowStride bytes from one row to the next.
 * @property pixelStride bytes from one number to the next.
 */
public class Plane @JvmOverloads constructor(
    private val bytes: ByteBuffer,
    private val rowStride: Int,
    private val pixelStride: Int,
    private val start: Int = 0,
) {
    internal fun at(row: Int, column: Int): Int =
        bytes.get(start + row * rowStride + column * pixelStride).toInt() and 255

    internal fun require(name: String, rows: Int, columns: Int) {
        val last = start + (rows - 1L) * rowStride + (columns - 1L) * pixelStride
        require(rowStride > 0 && pixelStride > 0 && start >= 0 && last < bytes.limit()) {
            "`$name` must hold $rows rows of $columns numbers. Received: ${bytes.limit()} bytes, " +
                "rowStride=$rowStride, pixelStride=$pixelStride"
        }
    }
}
