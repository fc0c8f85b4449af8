package io.github.keras_adaptive.anytime

import kotlin.math.floor
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

/** Times of stages, on a simulated clock that moves in steps. */
class StageTimesTest {
    private val stageMs = listOf(0.03, 0.4, 5.0)

    /** A clock, and stages that take their time; the run of number `hiccup` takes 20 ms longer. */
    private inner class Simulated(private val tickMs: Double, private val hiccup: Int = -1) {
        private var time = 12_345.678
        private var runs = 0

        val clock = {
            time += READ_MS
            floor(time / tickMs) * tickMs
        }

        fun run(stage: Int) {
            time += stageMs[stage] + if (runs++ == hiccup) 20.0 else 0.0
        }
    }

    private fun assertNear(times: StageTimes, what: String) {
        for ((found, expected) in times.expectedMs.zip(stageMs)) {
            val near = found > 0.7 * expected && found < 1.3 * expected
            assertTrue(near, "$what: $found, not $expected")
        }
    }

    @Test
    fun `times are right from the start, whatever the clock`() {
        for (tick in listOf(0.001, 0.1, 1.0, 4.0, 16.0)) {
            val simulated = Simulated(tick)
            val times = StageTimes(stageMs.size, simulated.clock)
            times.measure(5, simulated::run)
            assertNear(times, "a clock of $tick ms")
        }
    }

    @Test
    fun `one hiccup while a file is opened is not learned, whenever it comes`() {
        for (hiccup in 0 until 1000 step 3) {
            val simulated = Simulated(1.0, hiccup)
            val times = StageTimes(stageMs.size, simulated.clock)
            times.measure(5, simulated::run)
            assertNear(times, "a hiccup at run $hiccup")
        }
    }

    @Test
    fun `a slow spell is followed quickly, and forgotten slowly`() {
        val simulated = Simulated(0.001)
        val times = StageTimes(stageMs.size, simulated.clock)
        times.measure(5, simulated::run)
        times.learn(1, 100.0)
        assertTrue(times.expectedMs[1] < 0.51, "one hiccup")
        repeat(10) { times.learn(1, 0.8) }
        assertTrue(times.expectedMs[1] > 0.76)
        repeat(500) { times.forgetSlowly(1) }
        assertEquals(0.4, times.expectedMs[1], 0.02)
    }

    private companion object {
        const val READ_MS = 1e-4 // what reading the clock takes
    }
}
