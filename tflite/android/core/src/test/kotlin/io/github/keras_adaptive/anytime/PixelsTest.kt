package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import kotlin.io.encoding.Base64
import kotlin.math.abs
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class PixelsTest {
    private fun picture(case: Case): Picture {
        val (height, width, channels) = case.list("shape").map { (it as Long).toInt() }
        return Picture(Base64.decode(case.text("pixels")), height, width, channels)
    }

    @Test
    fun `pictures are scaled as in Python`() {
        val vectors = Testdata.json("pixels.json")
        var count = 0
        for (case in vectors.list("scaled").map { Case(it as Map<*, *>) }) {
            val (height, width, channels) =
                listOf("height", "width", "channels").map { case.at("rule").int(it) }
            val rule = PixelRule(height, width, channels, case.at("rule").double("margin"))
            val found = rule.resize(picture(case.at("picture")))
            val expected = picture(case.at("expected")).pixels
            assertEquals(expected.size, found.size)
            val level = { value: Byte -> value.toInt() and 255 }
            val most = found.indices.maxOf { abs(level(found[it]) - level(expected[it])) }
            assertTrue(most <= vectors.int("tolerance"), "$most levels")
            count += 1
        }
        assertEquals(10, count)
    }

    @Test
    fun `of a long picture only what is kept is computed`() {
        val rows = 1 shl 22 // times the 1024 columns of the rule more bytes than an array has
        val rule = PixelRule(1, 1024, 1)
        val pixels = ByteArray(rows) { if (it in rows / 2 - 1..rows / 2) 100 else 7 }
        for ((height, width) in listOf(rows to 1, 1 to rows)) {
            val found = rule.resize(Picture(pixels, height, width, 1))
            assertEquals(1024, found.size)
            if (width == 1) assertTrue(found.all { it.toInt() == 100 })
        }
    }

    @Test
    fun `colors of frames become RGB`() {
        // Y, U and V of white, black, red, green and blue in full range, computed by hand
        val colors = mapOf(
            listOf(255, 128, 128) to listOf(255, 255, 255),
            listOf(0, 128, 128) to listOf(0, 0, 0),
            listOf(76, 85, 255) to listOf(254, 0, 0),
            listOf(150, 44, 21) to listOf(0, 255, 1),
            listOf(29, 255, 107) to listOf(0, 0, 254),
        )
        for ((yuv, rgb) in colors) {
            val (y, u, v) = yuv.map { it.toByte() }
            val nv21 = ByteArray(6 * 4) { y } + ByteArray(6 * 2) { if (it % 2 == 0) v else u }
            val found = Picture.fromNv21(nv21, 4, 6)
            for (i in 0 until 24) for (c in 0 until 3) {
                assertEquals(rgb[c], found.pixels[3 * i + c].toInt() and 255, "$yuv")
            }
        }
    }

    @Test
    fun `planes with strides are as those without`() {
        val random = java.util.Random(0)
        val nv21 = ByteArray(5 * 7 + 2 * 4 * 3).also(random::nextBytes)
        val plain = Picture.fromNv21(nv21, 5, 7)
        fun strided(rows: Int, columns: Int, row: Int, pixel: Int, at: (Int, Int) -> Byte): Plane {
            val bytes = ByteBuffer.allocate((rows - 1) * row + (columns - 1) * pixel + 1)
            for (r in 0 until rows) for (c in 0 until columns) {
                bytes.put(r * row + c * pixel, at(r, c))
            }
            return Plane(bytes, row, pixel)
        }
        val found = Picture.fromYuv(
            strided(5, 7, 16, 1) { r, c -> nv21[7 * r + c] },
            strided(3, 4, 24, 3) { r, c -> nv21[35 + 8 * r + 2 * c + 1] },
            strided(3, 4, 24, 3) { r, c -> nv21[35 + 8 * r + 2 * c] },
            5, 7,
        )
        assertArrayEquals(plain.pixels, found.pixels)
    }

    @Test
    fun `turning four times is not turning, and corners go where they must`() {
        val pixels = ByteArray(6) { it.toByte() } // 0 1 2 over 3 4 5
        val picture = Picture(pixels, 2, 3, 1)
        val right = picture.rotated(90)
        assertArrayEquals(byteArrayOf(3, 0, 4, 1, 5, 2), right.pixels)
        assertEquals(3 to 2, right.height to right.width)
        assertArrayEquals(byteArrayOf(5, 4, 3, 2, 1, 0), picture.rotated(180).pixels)
        assertArrayEquals(byteArrayOf(2, 5, 1, 4, 0, 3), picture.rotated(-90).pixels)
        assertArrayEquals(pixels, right.rotated(270).pixels)
    }

    @Test
    fun `what is transparent lies over white`() {
        val argb = intArrayOf(0x00123456, 0xFF123456.toInt(), 0x80000000.toInt())
        val found = Picture.fromArgb(argb, 1, 3)
        val expected = listOf(255, 255, 255, 0x12, 0x34, 0x56, 127, 127, 127)
        assertEquals(expected, found.pixels.map { it.toInt() and 255 })
    }

    @Test
    fun `what is no picture is refused`() {
        for (call in listOf(
            { Picture(ByteArray(5), 1, 2, 3) },
            { Picture(ByteArray(0), 0, 2, 3) },
            { Picture(ByteArray(2), 1, 1, 2) },
            { Picture.fromNv21(ByteArray(10), 4, 4) },
            { Picture.fromArgb(IntArray(3), 2, 2) },
            { PixelRule(0, 1, 3) },
            { PixelRule(1, 1, 3, 0.5) },
            { PixelRule(1, 1, 2) },
            { Picture(ByteArray(1), 1, 1, 1).rotated(45) },
        )) {
            assertThrows(IllegalArgumentException::class.java) { call() }
        }
    }
}
