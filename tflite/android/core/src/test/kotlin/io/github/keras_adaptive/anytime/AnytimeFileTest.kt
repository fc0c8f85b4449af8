package io.github.keras_adaptive.anytime

import java.io.File
import java.nio.ByteBuffer
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class AnytimeFileTest {
    private val whole = Testdata.file(Testdata.json("files/damage.json").text("file")).readBytes()

    private fun refusal(content: ByteArray): String? =
        try {
            AnytimeFile.readInfo(ByteBuffer.wrap(content), "PATH")
            null
        } catch (error: FileException) {
            error.message
        }

    @Test
    fun `damage is refused in the shared words`() {
        val wrong = ArrayList<String>()
        for (case in Testdata.cases("files/damage.json")) {
            val found = refusal(Testdata.edited(whole, case))
            val expected = case.values["refusal"] as String?
            // what follows `info is JSON` in parentheses is each language's own
            val words = { text: String? -> text?.replace(Regex("(info is JSON.*?) \\(.*"), "$1") }
            if (words(found) != words(expected)) {
                wrong.add("${case.text("what")}: $found, not $expected")
            }
        }
        assertTrue(wrong.isEmpty(), wrong.joinToString("\n"))
    }

    @Test
    fun `every whole file is read`() {
        for (case in Testdata.cases("files/answers.json")) {
            val info = AnytimeFile.readInfo(Testdata.file(case.text("file")))
            assertEquals(case.text("sha256"), info.sha256)
            assertEquals(3, info.version)
            assertEquals(info.exits.size, info.macs?.size)
            assertEquals(info.thresholds.size, info.logOdds?.size)
        }
    }

    @Test
    fun `files of version 2 are read`() {
        for (name in listOf("float32", "int8", "learned", "single_call")) {
            val folder = System.getProperty("anytime.version2")
            val info = AnytimeFile.readInfo(File(folder, "$name.tflite"))
            assertEquals(2, info.version)
            assertNull(info.logOdds)
            assertTrue("quantization" in info.json)
        }
    }

    @Test
    fun `no file, a folder and random bytes are refused`() {
        for (file in listOf(File("nowhere.tflite"), Testdata.folder)) {
            val error = assertThrows(FileException::class.java) { AnytimeFile.readInfo(file) }
            assertTrue(error.message!!.startsWith("`path` must be a file. Received: path="))
        }
        val random = java.util.Random(0)
        repeat(200) {
            val content = ByteArray(random.nextInt(400)).also(random::nextBytes)
            if (content.size >= 8) "TFL3".toByteArray().copyInto(content, 4)
            assertTrue(refusal(content) != null)
        }
    }

    @Test
    fun `whatever bytes are changed and sealed anew, only FileException is thrown`() {
        val random = java.util.Random(1)
        var refused = 0
        repeat(600) {
            val content = whole.copyOf()
            repeat(1 + random.nextInt(4)) {
                content[random.nextInt(content.size)] = random.nextInt(256).toByte()
            }
            if (refusal(content) != null) refused += 1
        }
        assertTrue(refused > 590, "$refused")
    }

    @Test
    fun `JSON is bounded`() {
        fun read(text: String) = Json.read(ByteBuffer.wrap(text.toByteArray()))
        val text = "[1, -2.5e0, \"a\\\"\\u00e9\\n\", true, null]"
        assertEquals(listOf(1L, -2.5, "a\"\u00e9\n", true, null), read(text))
        for (wrong in listOf(
            "[".repeat(200), "1".repeat(50), "[1,]", "{\"a\" 1}", "[1] 2", "NaN", "\"a", "01",
            "tru", "", "\"\u0001\"",
        )) {
            assertThrows(Json.Malformed::class.java, { read(wrong) }, wrong)
        }
        assertThrows(Json.Malformed::class.java) { Json.read(ByteBuffer.allocate((1 shl 24) + 1)) }
    }
}
