package io.github.keras_adaptive.anytime.desktop

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Answer
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.Case
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.FileException
import io.github.keras_adaptive.anytime.StoppedBy
import io.github.keras_adaptive.anytime.Testdata
import java.io.File
import java.nio.ByteBuffer
import java.util.Random
import java.util.concurrent.Callable
import java.util.concurrent.Executors
import kotlin.concurrent.thread
import kotlin.io.encoding.Base64
import kotlin.math.abs
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assumptions.assumeTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test

/** The tests of this module run real networks; they need the library of LiteRT. */
internal fun needLibrary() {
    val path = System.getenv("LITERT_LIBRARY")
    val words = "LITERT_LIBRARY does not name libLiteRt.so"
    if (System.getenv("CI") != null) assertTrue(path != null, words)
    assumeTrue(path != null, words)
}

class LiteRtBackendTest {
    private val opener = LiteRtBackend.opener(threads = 1)

    @BeforeEach
    fun library() = needLibrary()

    /** Keeps the backend, to look at its logits. */
    private class Keeping : Backend.Opener {
        lateinit var backend: Backend
        var opened = 0
        override fun open(file: CheckedFile): Backend {
            opened += 1
            backend = LiteRtBackend.opener(threads = 1).open(file)
            return backend
        }
    }

    private fun images(case: Case): List<Map<String, Any>> {
        val inputs = case.at("inputs")
        val packed = inputs.values.keys.associate { (it as String) to inputs.array(it) }
        return case.list("expected").indices.map { row -> packed.mapValues { it.value.row(row) } }
    }

    private fun checkAnswer(answer: Answer, expected: Case, cost: Float?, file: String) {
        assertEquals(expected.int("exit"), answer.exit, file)
        assertEquals(expected.int("label"), answer.label, file)
        assertEquals(expected.text("stopped_by"), answer.stoppedBy?.text, file)
        expected.doubles("probabilities").forEachIndexed { i, p ->
            assertEquals(p, answer.probabilities[i].toDouble(), 1e-4, file)
        }
        if (cost != null) assertEquals(cost.toDouble(), answer.cost!!, 1e-6 * cost, file)
    }

    @Test
    fun `every file answers as is written`() {
        val table = StringBuilder("file images largest-difference\n")
        for (case in Testdata.cases("files/answers.json")) {
            val file = case.text("file")
            val keeping = Keeping()
            var most = 0f
            AnytimeModel(Testdata.file(file), keeping).use { model ->
                assertEquals(case.values["single_call"], model.hasPredict)
                val costs = case.array("costs")
                val logits = case.array("logits")
                for ((row, image) in images(case).withIndex()) {
                    val expected = Case(case.list("expected")[row] as Map<*, *>)
                    val stage = model.exits.indexOf(expected.int("exit"))
                    val cost = costs.floats(row)[stage]
                    checkAnswer(model.classify(image), expected, cost, file)
                    if (model.hasPredict) checkAnswer(model.predict(image), expected, cost, file)
                    val all = logits.floats(row)
                    val classes = all.size / model.exits.size
                    model.stream(image).forEachIndexed { i, answer ->
                        assertEquals(costs.floats(row)[i].toDouble(), answer.cost!!, 1.0, file)
                    }
                    model.exits.indices.forEach { i ->
                        keeping.backend.run(i).logits.forEachIndexed { c, found ->
                            most = maxOf(most, abs(found - all[i * classes + c]))
                        }
                    }
                }
            }
            assertTrue(most < 1e-2, "$file: $most")
            table.append("$file ${case.list("expected").size} $most\n")
        }
        File("target/answers.txt").writeText(table.toString())
    }

    @Test
    fun `files of version 2 run`() {
        val folder = File(System.getProperty("anytime.version2"))
        for (name in listOf("float32", "int8", "learned", "single_call")) {
            AnytimeModel(folder.resolve("$name.tflite"), opener).use { model ->
                val random = Random(0)
                repeat(5) {
                    val image = FloatArray(model.inputs[0].size) { random.nextFloat() - 0.5f }
                    val answers = model.stream(image).toList()
                    val answer = model.classify(image)
                    val same = answers[model.exits.indexOf(answer.exit)]
                    assertEquals(same.probabilities.toList(), answer.probabilities.toList())
                    if (model.hasPredict) assertEquals(answer.exit, model.predict(image).exit)
                }
            }
        }
    }

    @Test
    fun `hostile files are refused before the library sees them, and what is not refused runs`() {
        val damage = Testdata.json("files/damage.json")
        val whole = Testdata.file(damage.text("file")).readBytes()
        val edits = Testdata.cases("files/damage.json")
        for (case in edits) {
            val keeping = Keeping()
            val content = ByteBuffer.wrap(Testdata.edited(whole, case))
            if (case.values["refusal"] == null) {
                AnytimeModel(content, keeping).use { it.classify(ByteArray(64)) }
            } else {
                try {
                    AnytimeModel(content, keeping).close()
                    throw AssertionError(case.text("what"))
                } catch (_: FileException) {
                    assertEquals(0, keeping.opened, case.text("what"))
                }
            }
        }
    }

    @Test
    fun `a file whose weights are random still runs`() {
        val damage = Testdata.json("files/damage.json")
        val whole = Testdata.file(damage.text("file")).readBytes()
        val random = Random(3)
        var ran = 0
        repeat(300) {
            val at = random.nextInt(whole.size)
            val byte = ByteArray(1).also(random::nextBytes)
            val edit = mapOf("at" to at.toLong(), "base64" to Base64.encode(byte))
            val case = Case(mapOf("write" to listOf(edit), "reseal" to true))
            try {
                val content = ByteBuffer.wrap(Testdata.edited(whole, case))
                AnytimeModel(content, opener).use { it.classify(ByteArray(64)) }
                ran += 1
            } catch (_: FileException) {
                // refused, by the check or by the library
            }
        }
        assertTrue(ran > 20, "$ran")
    }

    @Test
    fun `eight threads share a model, or take one each`() {
        val case = Testdata.cases("files/answers.json").first { it.text("file") == "int8.tflite" }
        val images = images(case)
        val file = Testdata.file("int8.tflite")
        val shared = AnytimeModel(file, LiteRtBackend.opener(threads = 1))
        val pool = Executors.newFixedThreadPool(8)
        try {
            val tasks = List(8) { number ->
                Callable {
                    val own = AnytimeModel(file, LiteRtBackend.opener(threads = 1))
                    own.use {
                        repeat(25) { round ->
                            val row = (7 * number + round) % images.size
                            val expected = Case(case.list("expected")[row] as Map<*, *>)
                            checkAnswer(shared.classify(images[row]), expected, null, "shared")
                            checkAnswer(own.predict(images[row]), expected, null, "own")
                        }
                    }
                }
            }
            pool.invokeAll(tasks).forEach { it.get() }
        } finally {
            pool.shutdown()
            shared.close()
        }
    }

    @Test
    fun `deadlines and cancelling end an image early, and change nothing else`() {
        val never = doubleArrayOf(1.0, 1.0, 1.0)
        AnytimeModel(Testdata.file("float32.tflite"), opener).use { model ->
            val image = ByteArray(64) { it.toByte() }
            val all = model.stream(image).toList().associateBy { it.exit }
            val hurried = model.classify(image, deadlineMs = 0.0, thresholds = never)
            assertEquals(0 to StoppedBy.DEADLINE, hurried.exit to hurried.stoppedBy)
            assertEquals(StoppedBy.END, model.classify(image, 1e6, never).stoppedBy)
            var done = false
            val canceller = thread { while (!done) model.cancel() }
            val answers = List(2000) { model.classify(image, thresholds = never) }
            done = true
            canceller.join()
            assertTrue(answers.any { it.stoppedBy == StoppedBy.CANCELLED })
            for (answer in answers) {
                val expected = all.getValue(answer.exit).probabilities.toList()
                assertEquals(expected, answer.probabilities.toList())
                assertTrue(answer.exit == 2 || answer.stoppedBy == StoppedBy.CANCELLED)
            }
        }
    }
}
