package io.github.keras_adaptive.anytime.android

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.Case
import io.github.keras_adaptive.anytime.FileException
import io.github.keras_adaptive.anytime.Testdata
import java.io.File
import java.nio.file.Path
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assumptions.assumeTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

class BackendsTest {
    @TempDir
    lateinit var folder: Path

    @BeforeEach
    fun library() {
        val path = System.getenv("LITERT_LIBRARY")
        val words = "LITERT_LIBRARY does not name libLiteRt.so"
        if (System.getenv("CI") != null) assertTrue(path != null, words)
        assumeTrue(path != null, words)
    }

    private fun answersAsWritten(
        name: String, opener: Backend.Opener, unlike: Set<String> = emptySet(),
    ) {
        val table = StringBuilder("file images largest-difference-of-probabilities\n")
        for (case in Testdata.cases("files/answers.json")) {
            val file = case.text("file")
            if (file in unlike) continue
            val inputs = case.at("inputs")
            val packed = inputs.values.keys.associate { (it as String) to inputs.array(it) }
            var most = 0.0
            AnytimeModel(Testdata.file(file), opener).use { model ->
                for ((row, wanted) in case.list("expected").withIndex()) {
                    val expected = Case(wanted as Map<*, *>)
                    val image = packed.mapValues { it.value.row(row) }
                    val answers = listOf(model.classify(image)) +
                        if (model.hasPredict) listOf(model.predict(image)) else emptyList()
                    for (answer in answers) {
                        assertEquals(expected.int("exit"), answer.exit, file)
                        assertEquals(expected.int("label"), answer.label, file)
                        assertEquals(expected.text("stopped_by"), answer.stoppedBy?.text, file)
                        val stage = model.exits.indexOf(answer.exit)
                        val cost = case.array("costs").floats(row)[stage].toDouble()
                        assertEquals(cost, answer.cost!!, 1e-6 * cost, file)
                        expected.doubles("probabilities").forEachIndexed { i, p ->
                            most = maxOf(most, Math.abs(p - answer.probabilities[i]))
                        }
                    }
                }
            }
            assertTrue(most < 1e-4, "$file: $most")
            table.append("$file ${case.list("expected").size} $most\n")
        }
        File("target/$name.txt").writeText("$table")
    }

    @Test
    fun `the interpreter answers as is written`() =
        answersAsWritten("interpreter", InterpreterBackend.opener(threads = 1))

    @Test
    fun `the compiled model answers as is written, and leaves no file behind`() {
        val opener = CompiledModelBackend.opener(folder.toFile(), threads = 1)
        // LiteRT's buffers are not written as uint8
        answersAsWritten("compiled_model", opener, unlike = setOf("integers.tflite"))
        assertEquals(0, folder.toFile().list()!!.size)
        val error = assertThrows(FileException::class.java) {
            AnytimeModel(Testdata.file("integers.tflite"), opener)
        }
        assertTrue("use InterpreterBackend" in error.message!!)
        val nowhere = CompiledModelBackend.opener(folder.resolve("missing").toFile())
        assertThrows(FileException::class.java) {
            AnytimeModel(Testdata.file("float32.tflite"), nowhere)
        }
    }
}
