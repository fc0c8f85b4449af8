package io.github.keras_adaptive.anytime

import kotlin.math.max
import kotlin.math.min

/**
 * Expected time of each stage: follows what it lately took.
 *
 * A clock may move in steps that are longer than a stage, which then seems to take no time, or a
 * whole step. So times are added up, over as many runs as it takes until they are many steps of
 * the clock.
 *
 * @param clock milliseconds, from anywhere on.
 */
internal class StageTimes(stages: Int, private val clock: () -> Double) {
    val expectedMs = DoubleArray(stages)
    private val fastestMs = DoubleArray(stages) { Double.POSITIVE_INFINITY }
    private val sums = DoubleArray(stages) // not yet learned from
    private val runs = IntArray(stages)
    private var tickMs = Double.POSITIVE_INFINITY // the shortest time the clock has shown

    init {
        var before = clock()
        repeat(READS) {
            val now = clock()
            see(now - before)
            before = now
        }
    }

    /** Measures every stage at least so many times, before anything is known. */
    fun measure(times: Int, run: (Int) -> Unit) {
        repeat(times) {
            for (i in expectedMs.indices) { // the fastest, which nothing disturbed
                fastestMs[i] = min(fastestMs[i], timed(i, 1, run))
            }
        }
        for (i in expectedMs.indices) {
            var many = 1
            var took = fastestMs[i]
            while (took < IN_A_ROW * tickMs && many < MOST) {
                many *= 2
                took = timed(i, many, run)
                repeat(2) {
                    // the least of three: what else the machine did meanwhile is not the stage's
                    if (took >= IN_A_ROW * tickMs) took = min(took, timed(i, many, run))
                }
            }
            fastestMs[i] = took / many
        }
        fastestMs.copyInto(expectedMs)
    }

    private fun timed(stage: Int, many: Int, run: (Int) -> Unit): Double {
        val start = clock()
        repeat(many) { run(stage) }
        val took = clock() - start
        see(took)
        return took
    }

    private fun see(tookMs: Double) {
        if (tookMs > 0) tickMs = min(tickMs, tookMs)
    }

    /** Follows the time a stage takes: up quickly, down slowly, unmoved by one hiccup. */
    fun learn(stage: Int, tookMs: Double) {
        see(tookMs)
        sums[stage] += tookMs
        runs[stage] += 1
        val expected = expectedMs[stage]
        if (sums[stage] < SCATTERED * tickMs && expected != 0.0) return
        val mean = sums[stage] / runs[stage]
        sums[stage] = 0.0
        runs[stage] = 0
        fastestMs[stage] = min(fastestMs[stage], mean)
        val change = mean - expected
        // from nothing it can only go up by what was seen
        val most = if (expected != 0.0) 0.25 * expected else change
        expectedMs[stage] += if (change > 0) min(0.5 * change, most) else 0.05 * change
    }

    /** Expects a little less of a stage that was not begun for lack of time. */
    fun forgetSlowly(stage: Int) {
        expectedMs[stage] = max(0.99 * expectedMs[stage], fastestMs[stage])
    }

    private companion object {
        // ticks of the clock, that runs must last together to be learned from
        const val IN_A_ROW = 8 // the error is then an eighth at most
        const val SCATTERED = 64 // each run may meet a tick by chance: the deviation is an eighth
        const val READS = 1000 // of the clock in a row, to see a tick
        const val MOST = 4096 // runs in one measurement; a clock may stand still
    }
}
