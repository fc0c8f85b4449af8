package io.github.keras_adaptive.anytime

import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class AnytimeModelTest {
    private val never = doubleArrayOf(1.0, 1.0, 1.0)
    private val pixels = ByteArray(64)

    /** A clock that stages move on; it shows steps of `tick` milliseconds. */
    private class Clock(private val tick: Double = 0.001) : () -> Double {
        var now = 0.0
        override fun invoke(): Double {
            now += 1e-4 // reading it takes time, too
            return Math.floor(now / tick) * tick
        }
    }

    private fun logits(label: Int, by: Float) = FloatArray(5) { if (it == label) by else 0f }

    private fun model(
        backend: Backend.Opener,
        clock: () -> Double = Clock(),
        file: String = "float32.tflite",
    ) = AnytimeModel(AnytimeFile.bytes(Testdata.file(file)), file, backend, clock)

    private fun timed(clock: Clock, vararg ms: Double, labels: List<Int> = listOf(0, 1, 2)) =
        FakeBackend(labels.map { logits(it, 0.1f) }) { clock.now += ms[it] }

    @Test
    fun `it goes on until an answer is confident`() {
        val backend = FakeBackend(listOf(logits(0, 0.1f), logits(3, 9f), logits(2, 1f)))
        val model = model(backend)
        backend.ran.clear()
        val answer = model.classify(pixels)
        assertEquals(listOf(0, 1), backend.ran)
        assertEquals(3, answer.label)
        assertEquals(1, answer.exit)
        assertEquals(StoppedBy.CONFIDENCE, answer.stoppedBy)
        assertEquals(model.info.classNames!![3], answer.className)
        assertEquals(model.info.macs!![1], answer.cost)
        assertEquals(1.0, answer.probabilities.sum().toDouble(), 1e-5)
        assertEquals(StoppedBy.END, model.classify(pixels, thresholds = never).stoppedBy)
        val least = doubleArrayOf(0.0, 1.0, 1.0)
        assertEquals(0, model.classify(pixels, thresholds = least).exit)
    }

    @Test
    fun `answers that agree stop it`() {
        val backend = FakeBackend(listOf(4, 4, 2).map { logits(it, 0.1f) })
        val answer = model(backend).classify(pixels, thresholds = never, patience = 2)
        assertEquals(1, answer.exit)
        assertEquals(StoppedBy.PATIENCE, answer.stoppedBy)
    }

    @Test
    fun `a stage for which there is no time is not begun`() {
        val clock = Clock()
        val backend = timed(clock, 1.0, 2.0, 4.0)
        val model = model(backend, clock)
        val exits = listOf(0.0 to 0, 1.5 to 0, 2.9 to 0, 3.2 to 1, 6.9 to 1, 7.2 to 2)
        for ((deadline, exit) in exits) {
            val answer = model.classify(pixels, deadlineMs = deadline, thresholds = never)
            assertEquals(exit, answer.exit, "$deadline ms")
            val last = if (exit == 2) StoppedBy.END else StoppedBy.DEADLINE
            assertEquals(last, answer.stoppedBy)
            assertTrue(answer.elapsedMs <= maxOf(deadline, 1.1))
        }
    }

    @Test
    fun `deadlines are foreseen on clocks of steps longer than a stage`() {
        for (tick in listOf(1.0, 16.0)) {
            val clock = Clock(tick)
            val model = model(timed(clock, 0.5, 0.5, 40.0), clock)
            val answer = model.classify(pixels, deadlineMs = 30.0, thresholds = never)
            assertEquals(1, answer.exit, "$tick ms")
        }
    }

    @Test
    fun `a slow spell does not keep images out for good`() {
        val clock = Clock()
        var slow = 1.0
        val backend = FakeBackend(List(3) { logits(it, 0.1f) }) { clock.now += slow }
        val model = model(backend, clock)
        slow = 30.0
        repeat(20) { model.classify(pixels, thresholds = never) }
        slow = 1.0
        val exits = List(600) { model.classify(pixels, deadlineMs = 8.0, thresholds = never).exit }
        assertEquals(0, exits.first())
        assertEquals(2, exits.last())
    }

    @Test
    fun `another thread cancels after the stage that runs`() {
        val running = CountDownLatch(1)
        val cancelled = CountDownLatch(1)
        var hold = false
        val backend = FakeBackend(List(3) { logits(it, 0.1f) }) {
            if (hold && it == 1) {
                running.countDown()
                cancelled.await(10, TimeUnit.SECONDS)
            }
        }
        val model = model(backend, System::nanoTime.let { { it() / 1e6 } })
        hold = true
        val canceller = thread {
            running.await(10, TimeUnit.SECONDS)
            model.cancel()
            cancelled.countDown()
        }
        val answer = model.classify(pixels, thresholds = never)
        canceller.join()
        assertEquals(1, answer.exit)
        assertEquals(StoppedBy.CANCELLED, answer.stoppedBy)
        hold = false
        assertEquals(StoppedBy.END, model.classify(pixels, thresholds = never).stoppedBy)
    }

    @Test
    fun `images of other threads wait, and their deadlines and cancelling reach them`() {
        val running = CountDownLatch(1)
        val go = CountDownLatch(1)
        var hold = false
        val backend = FakeBackend(List(3) { logits(it, 0.1f) }) {
            if (hold && it == 0) {
                running.countDown()
                go.await(10, TimeUnit.SECONDS)
            }
        }
        val model = model(backend, System::nanoTime.let { { it() / 1e6 } })
        hold = true
        val first = thread { model.classify(pixels, thresholds = never) }
        running.await(10, TimeUnit.SECONDS)
        val answers = java.util.Collections.synchronizedList(ArrayList<Answer>())
        val begun = CountDownLatch(2)
        val others = listOf<Double?>(20.0, null).map { deadline ->
            thread {
                begun.countDown()
                answers.add(model.classify(pixels, deadlineMs = deadline, thresholds = never))
            }
        }
        begun.await()
        Thread.sleep(40)
        model.cancel()
        hold = false
        go.countDown()
        (others + first).forEach { it.join() }
        assertEquals(listOf(0, 0), answers.map { it.exit })
        assertEquals(setOf(StoppedBy.CANCELLED), answers.map { it.stoppedBy }.toSet())
        assertTrue(answers.all { it.elapsedMs >= 39 })
    }

    @Test
    fun `a stream gives every answer, computes no more, and cannot go on after another image`() {
        val backend = FakeBackend(List(3) { logits(it, 0.1f) })
        val model = model(backend)
        val answers = model.stream(pixels).toList()
        assertEquals(listOf(0, 1, 2), answers.map { it.exit })
        assertEquals(listOf(null, null, StoppedBy.END), answers.map { it.stoppedBy })
        backend.ran.clear()
        model.stream(pixels).first()
        assertEquals(listOf(0), backend.ran)
        val stale = model.stream(pixels).iterator()
        stale.next()
        model.classify(pixels)
        assertThrows(IllegalStateException::class.java) { stale.next() }
        val closed = model.stream(pixels).iterator()
        closed.next()
        model.close()
        assertThrows(IllegalStateException::class.java) { closed.next() }
        assertThrows(IllegalStateException::class.java) { model.stream(pixels) }
    }

    @Test
    fun `a stream is of the image that was given, whatever its array holds later`() {
        val backend = FakeBackend(List(3) { logits(it, 0.1f) })
        val image = FloatArray(64) { 0.5f }
        val answers = model(backend).stream(image)
        image.fill(-0.5f)
        answers.toList()
        assertTrue((backend.started.values.single() as FloatArray).all { it == 0.5f })
    }

    @Test
    fun `the single call is given log-odds`() {
        val backend = FakeBackend(listOf(logits(0, 0f), logits(2, 9f), logits(1, 0f)))
        val model = model(backend, file = "single_call.tflite")
        val own = model.predict(FloatArray(64))
        val given = backend.started.getValue("thresholds") as FloatArray
        assertArrayEquals(FloatArray(3) { model.info.logOdds!![it].toFloat() }, given)
        assertEquals(1, own.exit)
        assertEquals(2, own.label)
        assertEquals(7.0, own.cost)
        assertEquals(StoppedBy.CONFIDENCE, own.stoppedBy)
        model.predict(FloatArray(64), doubleArrayOf(0.5, 1.0, 0.2))
        val other = backend.started.getValue("thresholds") as FloatArray
        assertEquals("prob_margin", model.info.confidence)
        assertEquals(Math.log(2.0).toFloat(), other[0], 1e-5f) // -log(1 - 0.5)
        assertEquals(Float.POSITIVE_INFINITY, other[1])
        val without = model(FakeBackend(List(3) { logits(it, 1f) }))
        assertFalse(without.hasPredict)
        assertThrows(IllegalArgumentException::class.java) { without.predict(pixels) }
    }

    @Test
    fun `pixels are standardized in float32, pictures scaled as the file says`() {
        val backend = FakeBackend(List(3) { logits(it, 1f) })
        val model = model(backend)
        val image = ByteArray(64) { (4 * it).toByte() }
        model.classify(image)
        val found = backend.started.values.single() as FloatArray
        val mean = model.info.preprocessing!!.mean[0].toFloat()
        val std = model.info.preprocessing.std[0].toFloat()
        for (i in 0 until 64) assertEquals((4 * i / 255f - mean) / std, found[i])
        if (model.info.pixels == null) {
            val picture = Picture(ByteArray(300), 10, 10, 3)
            assertThrows(IllegalArgumentException::class.java) { model.classify(picture) }
        }
    }

    @Test
    fun `logits that are not finite are no answer`() {
        for (wrong in listOf(Float.NaN, Float.POSITIVE_INFINITY)) {
            val model = model(FakeBackend(List(3) { FloatArray(5) { wrong } }))
            val refused = assertThrows(IllegalArgumentException::class.java) {
                model.classify(pixels)
            }
            assertTrue(refused.message!!.startsWith("The logits must be finite"))
        }
    }

    @Test
    fun `arguments that cannot be meant are refused`() {
        val model = model(FakeBackend(List(3) { logits(it, 1f) }))
        for (call in listOf(
            { model.classify(ByteArray(63)) },
            { model.classify(FloatArray(64) { Float.NaN }) },
            { model.classify(FloatArray(64) { 255f }) },
            { model.classify(mapOf("x" to pixels)) },
            { model.classify(mapOf("image" to "pixels")) },
            { model.classify(mapOf("image" to IntArray(64))) },
            { model.classify(pixels, deadlineMs = -1.0) },
            { model.classify(pixels, deadlineMs = Double.NaN) },
            { model.classify(pixels, thresholds = doubleArrayOf(0.5)) },
            { model.classify(pixels, thresholds = doubleArrayOf(0.5, Double.NaN, 0.5)) },
            { model.classify(pixels, patience = 1) },
            { model.predict(pixels) },
        )) {
            assertThrows(IllegalArgumentException::class.java) { call() }
        }
        val backend = FakeBackend(List(3) { logits(it, 1f) })
        val closed = model(backend, file = "first_exit_closed.tflite")
        val image = FloatArray(64)
        assertThrows(IllegalArgumentException::class.java) {
            closed.classify(image, thresholds = doubleArrayOf(0.4, 0.5, 0.5))
        }
        val shut = doubleArrayOf(Double.POSITIVE_INFINITY, 0.0, 0.5)
        assertEquals(1, closed.classify(image, thresholds = shut).exit)
    }

    @Test
    fun `what a runtime cannot open is told of, and closing twice is no fault`() {
        val error = assertThrows(FileException::class.java) {
            model({ throw IllegalStateException("no memory") })
        }
        assertTrue(error.message!!.endsWith("(no memory)"))
        assertThrows(FileException::class.java) { model({ throw java.io.IOException("full") }) }
        val failing = FakeBackend(emptyList())
        assertThrows(FileException::class.java) { model(failing) }
        assertTrue(failing.closed)
        val backend = FakeBackend(List(3) { logits(it, 1f) })
        val model = model(backend)
        model.close()
        model.close()
        assertTrue(backend.closed)
        assertThrows(IllegalStateException::class.java) { model.classify(pixels) }
        assertEquals(listOf(1.5, 2.5, 3.5), model.info.stageMs)
    }
}
