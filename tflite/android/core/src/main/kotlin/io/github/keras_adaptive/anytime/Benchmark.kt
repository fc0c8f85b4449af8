package io.github.keras_adaptive.anytime

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.Random
import kotlin.math.floor

private typealias Way = Pair<String, Int> // what is timed, and the stage
private typealias Timed = Pair<Way, Double> // and the milliseconds

/**
 * Times each stage, leaving at each exit, and deadlines on this device, on random images.
 *
 * @param about what the result says of the device: `machine`, `system`, `interpreter`, `backend`
 *   (texts) and `threads`; `file`, too, if it has a name.
 * @param baseline another file to time in turn, in which nothing is decided: the network cut at
 *   an exit, which is a file exported with all others closed.
 */
public class Benchmark @JvmOverloads constructor(
    private val model: AnytimeModel,
    private val about: Map<String, Any>,
    private val baseline: AnytimeModel? = null,
) {
    private val exits = model.exits
    private val images = images(model)
    private val others = baseline?.let(::images)
    private val total = model.info.thresholds.size
    private val never = DoubleArray(total) { Double.POSITIVE_INFINITY } // so nobody leaves early

    init {
        val missing = ABOUT - about.keys
        require(missing.isEmpty()) {
            "`about` must say ${ABOUT.joinToString()}. Received: no ${missing.joinToString()}"
        }
    }

    /**
     * Measures everything so many times.
     *
     * @return JSON, a measurement as tflite/README.md describes it, as that of `anytime-tflite
     *   bench`; `keras-adaptive report RUN --measurement` reads it.
     */
    @JvmOverloads
    public fun run(runs: Int = 200): String {
        require(runs >= 1) { "`runs` must be a positive integer. Received: runs=$runs" }
        val found = measured(runs)
        val rows = exits.mapIndexed { i, exit ->
            val times = WAYS.associateWith { found[it to i] }.filterValues { it != null }
            mapOf("stage" to i, "exit" to exit) + times.mapValues { quantiles(it.value!!) }
        }
        val (first, last) = listOf(0, exits.size - 1).map {
            quantiles(found.getValue("until_here_ms" to it)).getValue("p50")
        }
        val result = mapOf(
            "format" to "keras_adaptive.measurement",
            "version" to 1,
            "sha256" to model.info.sha256,
            "file" to "${model.info.json["model"]}",
            "bytes" to model.bytes,
            "date" to SimpleDateFormat("yyyy-MM-dd", Locale.ROOT).format(Date()),
        ) + about + mapOf(
            "runs" to runs,
            "stages" to rows,
            "stage_ms" to exits.indices.map {
                quantiles(found.getValue("alone_ms" to it)).getValue("p50")
            },
            "deadlines" to listOf(1.5 * first, (first + last) / 2, 2 * last).map {
                deadline(it, runs)
            },
        )
        return Json.text(result + baseline(found))
    }

    private fun baseline(found: Map<Way, List<Double>>): Map<String, Any> {
        val times = found["baseline" to 0] ?: return emptyMap()
        val other = baseline!!
        val name = "${other.info.json["model"]}, cut at exit ${other.exits.last()}"
        val row = mapOf("file" to name, "bytes" to other.bytes, "ms" to quantiles(times))
        return mapOf("baseline" to row)
    }

    /**
     * Times images in every way, in turn; returns the times by name and stage.
     *
     * In its turn a way takes one image after another, as a camera gives them; the first, which
     * brings its weights into the caches, is not counted.
     */
    private fun measured(runs: Int): Map<Way, List<Double>> {
        val found = HashMap<Way, ArrayList<Double>>()
        val ways = ways()
        for (start in 0 until runs step TURN) {
            for (way in ways) {
                way(images.size - 1)
                for (i in start until minOf(start + TURN, runs)) {
                    for ((key, ms) in way(i % images.size)) found.getOrPut(key, ::ArrayList).add(ms)
                }
            }
        }
        return found
    }

    /** Returns what is timed: functions of the number of an image. */
    private fun ways(): List<(Int) -> List<Timed>> {
        val all = arrayListOf(
            { i: Int -> streamed(images[i]) },
            { i: Int -> model.staged(images[i]).mapIndexed { at, ms -> "staged_ms" to at to ms } },
        )
        fun leaving(name: String, answer: (Map<String, Any>, DoubleArray) -> Answer) {
            for ((at, exit) in exits.withIndex()) {
                val thresholds = never.copyOf()
                thresholds[exit] = Double.NEGATIVE_INFINITY
                all.add { i ->
                    val given = answer(images[i], thresholds)
                    // unless others before it agreed, and it left there
                    if (given.exit == exit) listOf(name to at to given.elapsedMs) else emptyList()
                }
            }
        }
        leaving("classify_ms") { image, thresholds -> model.classify(image, null, thresholds) }
        if (model.hasPredict) leaving("predict_ms", model::predict)
        if (others != null) {
            all.add { i -> listOf("baseline" to 0 to baseline!!.staged(others[i]).last()) }
        }
        return all
    }

    private fun streamed(image: Map<String, Any>): List<Timed> {
        val start = model.clock()
        var before = start
        return model.stream(image).withIndex().flatMap { (at, _) ->
            val now = model.clock()
            val alone = now - before
            before = now
            listOf("alone_ms" to at to alone, "until_here_ms" to at to now - start)
        }.toList()
    }

    /** How well a deadline is kept where nothing else makes an image leave. */
    private fun deadline(deadlineMs: Double, runs: Int): Map<String, Any> {
        val patience = total + 1 // more than there are answers
        val answers = List(runs) {
            model.classify(images[it % images.size], deadlineMs, never, patience)
        }
        return mapOf(
            "deadline_ms" to deadlineMs,
            "elapsed_ms" to quantiles(answers.map { it.elapsedMs }),
            "late" to answers.count { it.elapsedMs > deadlineMs }.toDouble() / runs,
            "mean_exit" to answers.map { it.exit }.average(),
        )
    }

    private companion object {
        val ABOUT = setOf("machine", "system", "interpreter", "backend", "threads")
        val WAYS = listOf("alone_ms", "until_here_ms", "staged_ms", "classify_ms", "predict_ms")
        const val TURN = 20 // images that a way takes before the next has its turn
        const val IMAGES = 16

        fun images(model: AnytimeModel): List<Map<String, Any>> {
            val random = Random(0)
            return List(IMAGES) { model.inputs.associate { it.name to values(it, random) } }
        }

        /** Integers may be indices, of a table of any length: only 0 and 1 fit them all. */
        private fun values(input: Input, random: Random): Any = when (input.dtype) {
            "float32" -> FloatArray(input.size) { random.nextGaussian().toFloat() }
            "int32" -> IntArray(input.size) { random.nextInt(2) }
            "int64" -> LongArray(input.size) { random.nextInt(2).toLong() }
            "int16" -> ShortArray(input.size) { random.nextInt(2).toShort() }
            "bool" -> BooleanArray(input.size) { random.nextBoolean() }
            else -> ByteArray(input.size) { random.nextInt(2).toByte() }
        }

        fun quantiles(values: List<Double>): Map<String, Double> {
            val sorted = values.sorted()
            return listOf(50, 95, 99).associate { q ->
                val place = (sorted.size - 1) * q / 100.0
                val low = floor(place).toInt()
                val high = minOf(low + 1, sorted.size - 1)
                "p$q" to sorted[low] + (place - low) * (sorted[high] - sorted[low])
            }
        }
    }
}
