package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class BenchmarkTest {
    @Test
    fun `every stage is timed, and the result is JSON`() {
        val backend = FakeBackend(List(3) { FloatArray(5) }) { Thread.sleep(1L + it) }
        AnytimeModel(Testdata.file("single_call.tflite"), backend).use { model ->
            val text = Benchmark(model, mapOf("machine" to "a \"JVM\"\n")).run(5)
            val found = Case(Json.read(ByteBuffer.wrap(text.toByteArray())) as Map<*, *>)
            assertEquals("a \"JVM\"\n", found.text("machine"))
            assertEquals(5, found.int("runs"))
            val rows = found.list("stages").map { Case(it as Map<*, *>) }
            assertEquals(listOf(0, 1, 2), rows.map { it.int("exit") })
            rows.forEachIndexed { i, row -> assertTrue(row.at("alone_ms").double("p50") >= 1 + i) }
            val medians = rows.map { it.at("alone_ms").double("p50") }
            assertEquals(medians, found.doubles("stage_ms").toList())
            assertTrue(found.at("classify_ms").double("p50") >= 6)
            assertEquals(3, found.list("deadlines").size)
        }
    }
}
