package io.github.keras_adaptive.anytime.desktop

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Case
import io.github.keras_adaptive.anytime.Packed
import java.io.File
import java.nio.ByteBuffer
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assumptions.assumeTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test

/** The shipped CIFAR-10 network on real images, against Python; vectors.py writes its answers. */
class ShippedNetworkTest {
    private val folder = File(System.getProperty("anytime.shipped"))

    @BeforeEach
    fun files() {
        needLibrary()
        assumeTrue(System.getProperty("anytime.slow") == "true", "slow: make test-slow")
        assumeTrue(folder.resolve("answers.json").isFile, "no images in ../shared/data")
    }

    private fun cases() = io.github.keras_adaptive.anytime.Testdata
        .cases(folder.resolve("answers.json"))

    @Test
    fun `two hundred images leave where they leave in Python`() {
        for (case in cases()) {
            val file = case.text("file")
            val inputs = case.at("inputs")
            val images = Packed(inputs.at(inputs.values.keys.single() as String))
            AnytimeModel(folder.resolve(file), LiteRtBackend.opener(threads = 1)).use { model ->
                for ((row, wanted) in case.list("expected").withIndex()) {
                    val expected = Case(wanted as Map<*, *>)
                    val answer = model.classify(images.row(row) as ByteArray)
                    assertEquals(expected.int("exit"), answer.exit, file)
                    assertEquals(expected.int("label"), answer.label, file)
                    assertEquals(expected.text("stopped_by"), answer.stoppedBy!!.text, file)
                    expected.doubles("probabilities").forEachIndexed { i, p ->
                        assertEquals(p, answer.probabilities[i].toDouble(), 1e-6, file)
                    }
                    if (model.hasPredict) {
                        assertEquals(answer.exit, model.predict(images.row(row)).exit, file)
                    }
                }
                assertEquals(200, case.list("expected").size)
            }
        }
    }

    // the heap does not grow: all of it is touched when the test begins
    private fun residentMb(): Double {
        System.gc()
        Thread.sleep(200) // memory of buffers is freed in another thread
        val pages = File("/proc/self/statm").readText().split(" ")[1].toLong()
        return pages * 4096 / 1e6
    }

    @Test
    fun `five thousand images take no more memory than one thousand`() {
        val case = cases().first()
        val inputs = case.at("inputs")
        val images = Packed(inputs.at(inputs.values.keys.single() as String))
        val bytes = folder.resolve(case.text("file")).readBytes()
        val content = ByteBuffer.allocateDirect(bytes.size).put(bytes)
        content.rewind() // direct memory is used as it is
        AnytimeModel(content, LiteRtBackend.opener(threads = 1)).use { model ->
            repeat(2000) { model.classify(images.row(it % 200) as ByteArray) }
            val before = residentMb()
            repeat(5000) { model.classify(images.row(it % 200) as ByteArray) }
            val grown = residentMb() - before
            assertTrue(grown < 8, "$grown MB")
        }
        val opener = LiteRtBackend.opener(threads = 1)
        val open = { repeat(15) { AnytimeModel(content, opener).close() } }
        repeat(2) { open() }
        val before = residentMb()
        open()
        val grown = residentMb() - before
        assertTrue(grown < 15, "$grown MB")
    }
}
