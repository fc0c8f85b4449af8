package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.io.encoding.Base64
import kotlin.math.abs
import kotlin.math.exp
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class RuleTest {
    private val files =
        listOf("confidence", "saturated", "learned", "patience", "agreement", "deadline")

    private fun networks(case: Case): List<Network?>? {
        fun floats(text: String): DoubleArray {
            val bytes = ByteBuffer.wrap(Base64.decode(text)).order(ByteOrder.LITTLE_ENDIAN)
            return DoubleArray(bytes.remaining() / 4) { bytes.getFloat(4 * it).toDouble() }
        }
        return case.listOrNull("stopping")?.let { all ->
            all.map { network ->
                (network as List<*>).map {
                    val layer = Case(it as Map<*, *>)
                    val rows = (layer.list("shape")[0] as Long).toInt()
                    Dense(rows, floats(layer.text("kernel")), floats(layer.text("bias")))
                }
            } + null
        }
    }

    private fun agreement(case: Case) = case.values["agreement"]?.let {
        val found = Case(it as Map<*, *>)
        Agreement(found.int("members"), found.double("share"))
    }

    @Test
    fun `every shared vector stops where and why it must`() {
        var count = 0
        for (file in files) for (case in Testdata.cases("$file.json")) {
            val deadline = case.values["deadline_ms"]?.let(Case::number) ?: Double.POSITIVE_INFINITY
            val run = Run(
                case.text("confidence"), case.doubles("log_odds"), case.intOrNull("patience"),
                deadline, networks(case), agreement(case),
            )
            val stageMs = case.doubles("stage_ms")
            val temperatures = case.doubles("temperatures")
            val expected = case.at("expected")
            var elapsed = 0.0
            for ((stage, logits) in case.list("logits").withIndex()) {
                elapsed += stageMs[stage]
                val divided = (logits as List<*>)
                    .map { Case.number(it) / temperatures[stage] }.toDoubleArray()
                val cancelled = case.intOrNull("cancelled_during").let { it != null && it <= stage }
                if (stage < expected.list("confidences").size) {
                    close(expected.doubles("confidences")[stage], run.confidenceOf(stage, divided))
                    close(expected.doubles("log_odds")[stage], run.logOddsOf(stage, divided))
                }
                val by = run.stoppedBy(
                    stage, divided, elapsed, stageMs.getOrNull(stage + 1), cancelled,
                ) ?: continue
                assertEquals(expected.int("exit"), stage, "$file: $case")
                assertEquals(expected.text("stopped_by"), by.text)
                assertEquals(expected.int("label"), run.label)
                expected.doubles("probabilities").forEachIndexed { i, p ->
                    assertEquals(p, run.probabilities[i], 1e-12)
                }
                count += 1
                break
            }
        }
        assertTrue(count >= 97, "$count")
    }

    private fun close(expected: Double, found: Double) {
        if (expected.isInfinite()) assertEquals(expected, found)
        else assertEquals(expected, found, 1e-9 * maxOf(1.0, abs(expected)))
    }

    @Test
    fun `thresholds of users become the log-odds of the vectors`() {
        for (file in files) for (case in Testdata.cases("$file.json")) {
            val odds = case.doubles("log_odds")
            case.doubles("thresholds").forEachIndexed { i, threshold ->
                val found = Confidence.toLogOdds(case.text("confidence"), threshold)
                if (file != "saturated") assertEquals(odds[i], found, 2e-6)
            }
        }
    }

    @Test
    fun `thresholds beyond all confidences let every answer leave, or none`() {
        val nobody = Double.POSITIVE_INFINITY
        for (name in Confidence.NAMES + "learned") {
            assertEquals(-nobody, Confidence.toLogOdds(name, -nobody))
            assertEquals(nobody, Confidence.toLogOdds(name, nobody))
        }
        assertEquals(nobody, Confidence.toLogOdds("max_prob", 1.0))
        assertEquals(-nobody, Confidence.toLogOdds("prob_margin", 0.0))
        assertEquals(nobody, Confidence.toLogOdds("entropy", 0.0))
        assertEquals(7.0, Confidence.toLogOdds("logit_margin", 7.0))
    }

    @Test
    fun `a threshold that is a confidence is reached by its answer`() {
        for (scale in listOf(0.1, 1.0, 5.0, 12.0)) for (name in Confidence.NAMES) {
            val logits = doubleArrayOf(0.3 * scale, 1.9 * scale, -0.4 * scale)
            val odds = Confidence.logOdds(name, logits)
            val threshold = Confidence.toLogOdds(name, Confidence.of(name, logits))
            assertTrue(odds >= threshold, "$name, $scale: $odds, $threshold")
        }
    }

    @Test
    fun `log-odds keep apart what probabilities do not`() {
        val near = doubleArrayOf(60.0, 0.0, 0.0)
        val nearer = doubleArrayOf(61.0, 0.0, 0.0)
        assertEquals(softmax(near).max(), softmax(nearer).max())
        for (name in Confidence.NAMES) {
            assertTrue(Confidence.logOdds(name, nearer) > Confidence.logOdds(name, near) + 0.5)
        }
    }

    @Test
    fun `of equal logits the first is the label`() {
        assertEquals(1, argmax(doubleArrayOf(0.0, 2.0, 2.0)))
        assertEquals(exp(-1.0) / (1 + exp(-1.0)), softmax(doubleArrayOf(0.0, 1.0))[0], 1e-15)
    }
}
