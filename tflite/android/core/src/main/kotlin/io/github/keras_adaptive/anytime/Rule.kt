package io.github.keras_adaptive.anytime

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.ln1p
import kotlin.math.max
import kotlin.math.min

/** Why an image stopped where it did; `text` is how the other languages write it. */
public enum class StoppedBy(public val text: String) {
    /** The answer was confident enough. */
    CONFIDENCE("confidence"),

    /** Enough answers in a row, or of all answers, named the same class. */
    PATIENCE("patience"),

    /** There was no time for another stage. */
    DEADLINE("deadline"),

    /** [AnytimeModel.cancel] was called. */
    CANCELLED("cancelled"),

    /** The whole network has run. */
    END("end"),
}

/** A layer of a learned policy: `kernel` row by row, `rows` by `bias.size`. */
internal class Dense(val rows: Int, val kernel: DoubleArray, val bias: DoubleArray) {
    fun apply(x: DoubleArray): DoubleArray {
        val found = bias.copyOf()
        for (i in 0 until rows) {
            for (j in found.indices) found[j] += x[i] * kernel[i * bias.size + j]
        }
        return found
    }
}

internal typealias Network = List<Dense>

/** How often answers must name one class: after `members` of them, this share of all. */
internal class Agreement(val members: Int, val share: Double)

internal fun softmax(logits: DoubleArray): DoubleArray {
    val most = logits.max()
    val found = DoubleArray(logits.size) { exp(logits[it] - most) }
    val sum = found.sum()
    for (i in found.indices) found[i] /= sum
    return found
}

internal fun argmax(values: DoubleArray): Int {
    var best = 0
    for (i in values.indices) if (values[i] > values[best]) best = i
    return best
}

/** The confidences, as users know them and in log-odds; what a file's rule compares. */
internal object Confidence {
    val NAMES = listOf("max_prob", "prob_margin", "logit_margin", "entropy")

    /** Returns a confidence as users know it. */
    fun of(name: String, logits: DoubleArray): Double =
        when (name) {
            "max_prob" -> softmax(logits).max()
            "prob_margin" -> margin(softmax(logits))
            "logit_margin" -> margin(logits)
            "entropy" -> negativeEntropy(logits)
            else -> throw IllegalArgumentException("`name` must be of $NAMES. Received: $name")
        }

    private fun margin(values: DoubleArray): Double {
        val sorted = values.sortedArray()
        return sorted[sorted.size - 1] - sorted[sorted.size - 2]
    }

    private fun negativeEntropy(logits: DoubleArray): Double {
        val most = logits.max()
        var total = 0.0
        var weighted = 0.0
        for (each in logits) {
            val scaled = exp(each - most)
            total += scaled
            weighted += scaled * (each - most)
        }
        return weighted / total - ln(total)
    }

    /**
     * Returns a confidence in log-odds, which keep their digits where probabilities are nearly 1.
     *
     * Of logits in descending order `z`: `d = z[1:] - z[0]`, at most 0; `exp(d - d[0])` is at
     * most 1, and in it nothing vanishes. So `r = sum of exp(d)` has the logarithm
     * `d[0] + log(sum of exp(d - d[0]))`.
     */
    fun logOdds(name: String, logits: DoubleArray): Double {
        val ordered = logits.sortedArrayDescending()
        val below = DoubleArray(ordered.size - 1) { ordered[it + 1] - ordered[0] }
        val second = below[0]
        if (name == "logit_margin") return -second
        val scaled = DoubleArray(below.size) { exp(below[it] - second) }
        val total = scaled.sum()
        if (name == "max_prob") return -(second + ln(total))
        val r = exp(second) * total
        if (name == "prob_margin") return ln1p(r) - second - ln(total + 1)
        val share = if (r > 0) ln1p(r) / r else 1.0 // of r in log1p(r)
        var entropy = total * share // over exp(second)
        for (i in below.indices) entropy += scaled[i] * -below[i] / (1 + r)
        return -(second + ln(entropy))
    }

    /**
     * Returns the log-odds of a threshold that is given as users know it.
     *
     * Every answer reaches `-inf`, none `inf`. A threshold that is some answer's confidence is
     * rounded, as that is; the log-odds are lower by that much, at most 1e-6.
     */
    fun toLogOdds(name: String, threshold: Double): Double {
        val nobody = Double.POSITIVE_INFINITY
        val everybody = Double.NEGATIVE_INFINITY
        if (name == "logit_margin") return if (threshold > 0) threshold else everybody
        val room: Double
        var odds: Double
        if (name == "entropy") {
            if (!(everybody < threshold && threshold < 0)) {
                return if (threshold >= 0) nobody else everybody
            }
            odds = -ln(-threshold)
            room = -threshold
        } else {
            if (!(0 < threshold && threshold < 1)) {
                return if (threshold >= 1) nobody else everybody
            }
            odds = -ln1p(-threshold)
            room = 1 - threshold
            if (name != "prob_margin") odds += ln(threshold)
        }
        return odds - min(8 * EPSILON * (1 / room + abs(odds)), 1e-6)
    }

    /** Returns the log-odds of stopping, by a learned policy. */
    fun stopping(network: Network, logits: DoubleArray): Double {
        val (first, second, third) = network
        val u = third.apply(relu(second.apply(relu(first.apply(softmax(logits))))))
        return u[0] - u[1]
    }

    private fun relu(x: DoubleArray) = DoubleArray(x.size) { max(x[it], 0.0) }

    private const val EPSILON = 2.220446049250313e-16
}

/**
 * Decides after each stage whether an image stops there.
 *
 * In this order: at the last stage ([StoppedBy.END]); if the confidence is at least the exit's
 * threshold; if the last [patience] answers, or enough of all answers, name the same class; if the
 * image was cancelled; if the deadline has passed or the next stage would pass it.
 *
 * @param thresholds one number per stage, in log-odds; `null`: no stop by confidence.
 * @param plain whether confidences are compared as users know them: so in files of version 2.
 */
internal class Run(
    private val confidence: String,
    private val thresholds: DoubleArray?,
    private val patience: Int? = null,
    private val deadlineMs: Double = Double.POSITIVE_INFINITY,
    private val networks: List<Network?>? = null,
    private val agreement: Agreement? = null,
    private val plain: Boolean = false,
) {
    private val votes = HashMap<Int, Int>()
    private var agreeing = 0
    private var logits = DoubleArray(1)

    /** The most probable class of the latest answer. */
    var label = -1
        private set

    /** Probabilities of the latest answer. */
    val probabilities: DoubleArray get() = softmax(logits)

    fun logOddsOf(stage: Int, logits: DoubleArray): Double {
        if (networks == null) return Confidence.logOdds(confidence, logits)
        val network = networks[stage] ?: return Double.POSITIVE_INFINITY
        return Confidence.stopping(network, logits)
    }

    /** Returns the confidence as users know it. */
    fun confidenceOf(stage: Int, logits: DoubleArray): Double {
        if (networks == null) return Confidence.of(confidence, logits)
        val network = networks[stage] ?: return 1.0
        return softmax(doubleArrayOf(Confidence.stopping(network, logits), 0.0))[0]
    }

    /**
     * Returns why to stop after a stage, or `null`.
     *
     * @param logits already divided by the exit's temperature.
     * @param nextMs the expected time of the next stage; `null`: this is the last.
     */
    fun stoppedBy(
        stage: Int,
        logits: DoubleArray,
        elapsedMs: Double,
        nextMs: Double?,
        cancelled: Boolean = false,
    ): StoppedBy? {
        val before = label
        label = argmax(logits)
        agreeing = if (label == before) agreeing + 1 else 1
        votes[label] = (votes[label] ?: 0) + 1
        this.logits = logits
        if (nextMs == null) return StoppedBy.END
        if (thresholds != null && thresholds[stage] < Double.POSITIVE_INFINITY) {
            val found = if (plain) confidenceOf(stage, logits) else logOddsOf(stage, logits)
            if (found >= thresholds[stage]) return StoppedBy.CONFIDENCE
        }
        if (patience != null && agreeing >= patience) return StoppedBy.PATIENCE
        if (agreement != null && agrees(agreement, stage + 1)) return StoppedBy.PATIENCE
        if (cancelled) return StoppedBy.CANCELLED
        if (elapsedMs >= deadlineMs || elapsedMs + nextMs > deadlineMs) return StoppedBy.DEADLINE
        return null
    }

    private fun agrees(agreement: Agreement, answers: Int): Boolean {
        val needed = agreement.share * answers - 1e-9 // so that 2 of 3 are two thirds
        return answers >= agreement.members && votes.values.max() >= needed
    }
}
