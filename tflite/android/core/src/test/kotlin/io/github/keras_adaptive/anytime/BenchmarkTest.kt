package io.github.keras_adaptive.anytime

import java.io.File
import java.nio.ByteBuffer
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class BenchmarkTest {
    private val about = mapOf(
        "machine" to "Maker \"Phone\" <7>",
        "system" to "Android 14 (API 34)",
        "interpreter" to "tensorflow-lite 2.16.1",
        "backend" to "interpreter",
        "threads" to 1,
    )
    private var now = 0.0

    /** A model that takes a millisecond for its first stage, two for the next, and so on. */
    private fun model(name: String): AnytimeModel {
        val backend = FakeBackend(List(3) { FloatArray(5) }) { now += 1 + it }
        val content = AnytimeFile.bytes(Testdata.file(name))
        return AnytimeModel(content, name, backend) { now.also { now += 1 / 1024.0 } }
    }

    private fun read(text: String) =
        Case(Json.read(ByteBuffer.wrap(text.toByteArray())) as Map<*, *>)

    @Test
    fun `what is written is the shared measurement, which Python reads`() {
        val model = model("single_call.tflite")
        val given = about + mapOf("file" to "single_call.tflite", "date" to "2026-11-30")
        val text = Benchmark(model, given, model("last_exits_closed.tflite")).run(5)
        File("target/measurement.json").writeText(text + "\n")
        assertEquals(Testdata.json("measurement.json").values, read(text).values)
    }

    @Test
    fun `every way to every exit is timed`() {
        val found = read(Benchmark(model("single_call.tflite"), about).run(5))
        val rows = found.list("stages").map { Case(it as Map<*, *>) }
        assertEquals(listOf(0, 1, 2), rows.map { it.int("exit") })
        for ((i, row) in rows.withIndex()) {
            val until = listOf(1.0, 3.0, 6.0)[i]
            assertEquals(1.0 + i, row.at("alone_ms").double("p50"), 0.02)
            for (way in listOf("until_here_ms", "staged_ms", "classify_ms")) {
                for (q in listOf("p50", "p95", "p99")) {
                    assertEquals(until, row.at(way).double(q), 0.05, "$way $i")
                }
            }
            // the single call of the fake leaves at exit 1, whatever the thresholds
            assertEquals(i == 1, "predict_ms" in row.values)
        }
        val deadlines = found.list("deadlines").map { Case(it as Map<*, *>) }
        assertEquals(listOf(0, 1, 2), deadlines.map { it.double("mean_exit").toInt() })
        assertTrue(deadlines.all { it.double("late") == 0.0 })
        assertTrue(Regex("\\d{4}-\\d\\d-\\d\\d").matches(found.text("date")))
        assertEquals("tiny", found.text("file"))
    }

    @Test
    fun `files of every kind are timed`() {
        for (name in listOf("integers", "two_inputs", "patience", "agreement")) {
            val found = read(Benchmark(model("$name.tflite"), about).run(1))
            assertEquals(3, found.list("stages").size, name)
        }
    }

    @Test
    fun `what the result must say of the device is asked for`() {
        val error = assertThrows(IllegalArgumentException::class.java) {
            Benchmark(model("float32.tflite"), about - "machine")
        }
        assertTrue("Received: no machine" in error.message!!, error.message)
    }
}
