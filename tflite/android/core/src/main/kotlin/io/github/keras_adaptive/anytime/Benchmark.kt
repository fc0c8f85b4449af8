package io.github.keras_adaptive.anytime

import java.util.Random
import kotlin.math.floor

/**
 * Times each stage, `classify` and deadlines on this device, on random images.
 *
 * @param model of one input of floats.
 * @param about what else the result says: the file, the machine, the system, threads.
 */
public class Benchmark(private val model: AnytimeModel, private val about: Map<String, Any>) {
    private val random = Random(0)
    private val images = List(16) {
        FloatArray(model.inputs[0].size) { (random.nextGaussian() * 0.5).toFloat() }
    }
    // so no image leaves early
    private val never = DoubleArray(model.info.thresholds.size) { Double.POSITIVE_INFINITY }

    init {
        require(model.inputs.size == 1 && model.inputs[0].dtype == "float32") {
            "`model` must have one input of float32. Received: ${model.inputs.map { it.dtype }}"
        }
    }

    /**
     * Measures everything so many times.
     *
     * @return JSON: milliseconds as p50, p95 and p99; keys as those of `anytime-tflite bench`.
     */
    @JvmOverloads
    public fun run(runs: Int = 200): String {
        require(runs >= 1) { "`runs` must be a positive integer. Received: runs=$runs" }
        val stages = model.exits.map { ArrayList<Double>() }
        val until = model.exits.map { ArrayList<Double>() }
        val classified = ArrayList<Double>()
        for (i in 0 until runs) {
            val image = images[i % images.size]
            val start = now()
            var before = start
            model.stream(image).forEachIndexed { stage, _ ->
                val time = now()
                stages[stage].add(time - before)
                until[stage].add(time - start)
                before = time
            }
            classified.add(model.classify(image, thresholds = never).elapsedMs)
        }
        val rows = model.exits.mapIndexed { i, exit ->
            mapOf(
                "stage" to i,
                "exit" to exit,
                "alone_ms" to quantiles(stages[i]),
                "until_here_ms" to quantiles(until[i]),
            )
        }
        val result = about + mapOf(
            "runs" to runs,
            "stages" to rows,
            "stage_ms" to stages.map { quantiles(it).getValue("p50") },
            "classify_ms" to quantiles(classified),
            "deadlines" to until.map { deadline(quantiles(it).getValue("p50"), runs) },
        )
        return Json.text(result)
    }

    /** How well a deadline is kept. */
    private fun deadline(deadlineMs: Double, runs: Int): Map<String, Any> {
        val answers = List(runs) { model.classify(images[it % images.size], deadlineMs, never) }
        return mapOf(
            "deadline_ms" to deadlineMs,
            "elapsed_ms" to quantiles(answers.map { it.elapsedMs }),
            "late" to answers.count { it.elapsedMs > deadlineMs }.toDouble() / runs,
            "mean_exit" to answers.map { it.exit }.average(),
        )
    }

    private fun now() = System.nanoTime() / 1e6

    private fun quantiles(values: List<Double>): Map<String, Double> {
        val sorted = values.sorted()
        return listOf(50, 95, 99).associate { q ->
            val place = (sorted.size - 1) * q / 100.0
            val low = floor(place).toInt()
            val high = minOf(low + 1, sorted.size - 1)
            "p$q" to sorted[low] + (place - low) * (sorted[high] - sorted[low])
        }
    }
}
