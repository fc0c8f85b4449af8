package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.io.encoding.Base64

/**
 * An input of the network.
 *
 * @property shape without the batch.
 * @property dtype `"float32"`, `"uint8"`, `"int8"`, `"int16"`, `"int32"`, `"int64"` or `"bool"`.
 */
public class Input(public val name: String, public val shape: List<Int>, public val dtype: String) {
    /** How many numbers it has. */
    public val size: Int get() = shape.fold(1) { size, side -> size * side }
}

/** How uint8 pixels become the network's input: `(pixel / 255 - mean) / std`, per channel. */
public class Preprocessing(public val mean: List<Double>, public val std: List<Double>)

/**
 * What a file says of itself; tflite/README.md describes each key.
 *
 * @property thresholds one per exit of the network, in the unit of the confidence.
 * @property logOdds the same in log-odds, which are compared; in files of version 2 `null`.
 * @property exits the exit that each stage of the file answers for.
 * @property inputs of the network; in files of version 2 empty, here, and the model's own are used.
 * @property json all of it, as maps, lists, texts, numbers and booleans.
 */
public class Info internal constructor(
    public val version: Int,
    public val sha256: String,
    public val exits: List<Int>,
    public val confidence: String,
    public val thresholds: List<Double>,
    public val logOdds: List<Double>?,
    public val temperatures: List<Double>,
    public val patience: Int?,
    internal val agreement: Agreement?,
    public val macs: List<Double>?,
    public val stageMs: List<Double>?,
    public val classNames: List<String>?,
    public val inputs: List<Input>,
    public val preprocessing: Preprocessing?,
    public val pixels: PixelRule?,
    internal val networks: List<Network?>?,
    public val json: Map<String, Any?>,
)

/** A file is missing, damaged, or not such a file. */
public class FileException(message: String, cause: Throwable? = null) :
    IllegalArgumentException(message, cause)

/** A value of the info is not what it must be; the words are those of Python. */
private class Unfit(message: String) : Exception(message)

/** Reads the info of a file, each value of which is checked. */
internal object InfoReader {
    private const val EXITS = 1000

    // what each key must be; the order is that in which the first wrong one is told
    private val CHECKS: Map<String, (Any?, Map<String, Any?>) -> Boolean> = linkedMapOf(
        "thresholds" to ::limitsFit,
        "exits" to ::exitsFit,
        "confidence" to ::confidenceFits,
        "temperatures" to { value, info -> numbersFit(exits(info), value, 0.0) },
        "patience" to { value, _ -> value == null || atLeast2(value) },
        "class_names" to { value, _ ->
            value == null || (value is List<*> && value.all { it is String })
        },
        "preprocessing" to { value, _ -> value == null || preprocessingFits(value) },
        "stage_ms" to { value, info -> value == null || numbersFit(stages(info), value, 0.0) },
        "sha256" to { value, _ -> value is String && Regex("[0-9a-f]{64}").matches(value) },
    )
    private val CHECKS_ADDED: Map<String, (Any?, Map<String, Any?>) -> Boolean> = linkedMapOf(
        "log_odds" to ::limitsFit,
        "agreement" to { value, _ -> value == null || agreementFits(value) },
        "inputs" to { value, _ -> inputsFit(value) },
        "pixels" to { value, _ -> value == null || pixelRule(value) != null },
        "macs" to { value, info ->
            numbersFit(stages(info), value) && numbers(value).all { it >= 0 }
        },
    )

    /** Returns what is wrong with the info, or `null`. */
    fun wrong(info: Map<String, Any?>): String? {
        val checks = if (version(info)!! >= 3) CHECKS + CHECKS_ADDED else CHECKS
        val missing = (checks.keys - info.keys).sorted()
        if (missing.isNotEmpty()) return "no ${missing.joinToString(", ")}"
        for ((key, fits) in checks) {
            val shown = { "$key=${Json.brief(info[key])}" }
            try {
                if (!fits(info[key], info)) return shown()
            } catch (error: Unfit) {
                return "${shown()} (${error.message})"
            }
        }
        return null
    }

    /** Returns a version that is an integer, or `null`. */
    fun version(info: Map<String, Any?>): Long? = info["version"] as? Long

    /** Returns the info of a file, in which nothing is wrong. */
    fun info(json: Map<String, Any?>): Info {
        val version = version(json)!!.toInt()
        val preprocessing = json["preprocessing"]?.let { it as Map<*, *> }
        return Info(
            version,
            json["sha256"] as String,
            (json["exits"] as List<*>).map { (it as Long).toInt() },
            json["confidence"] as String,
            limits(json["thresholds"]),
            if (version < 3) null else limits(json["log_odds"]),
            numbers(json["temperatures"]),
            (json["patience"] as Long?)?.toInt(),
            (json["agreement"] as Map<*, *>?)?.takeIf { version >= 3 }?.let {
                Agreement((it["members"] as Long).toInt(), (it["share"] as Number).toDouble())
            },
            if (version < 3) null else numbers(json["macs"]),
            json["stage_ms"]?.let(::numbers),
            (json["class_names"] as List<*>?)?.map { it as String },
            (json["inputs"] as List<*>?).orEmpty().filter { version >= 3 }
                .map { input(it as Map<*, *>) },
            preprocessing?.let { Preprocessing(numbers(it["mean"]), numbers(it["std"])) },
            json["pixels"]?.takeIf { version >= 3 }?.let(::pixelRule),
            networks(json),
            if ("quantisation" in json) { // the key in files written before 0.2
                json - "quantisation" + ("quantization" to json["quantisation"])
            } else {
                json
            },
        )
    }

    private fun exits(info: Map<String, Any?>) = (info["thresholds"] as List<*>).size

    private fun stages(info: Map<String, Any?>) = (info["exits"] as List<*>).size

    private fun isNumber(value: Any?) = value is Number && Math.abs(value.toDouble()) < 1e300

    private fun numbers(value: Any?): List<Double> =
        (value as List<*>).map { (it as Number).toDouble() }

    private fun limits(value: Any?): List<Double> = (value as List<*>).map {
        when (it) {
            "Infinity" -> Double.POSITIVE_INFINITY
            "-Infinity" -> Double.NEGATIVE_INFINITY
            else -> (it as Number).toDouble()
        }
    }

    private fun limitsFit(limits: Any?, info: Map<String, Any?>): Boolean =
        limits is List<*> && limits.size in 1..EXITS && limits.size == exits(info) &&
            limits.all { isNumber(it) || it == "Infinity" || it == "-Infinity" }

    private fun exitsFit(exits: Any?, info: Map<String, Any?>): Boolean {
        if (exits !is List<*> || exits.isEmpty() || exits.any { it !is Long }) return false
        val numbers = exits.map { it as Long }
        val ascending = numbers.zipWithNext().all { (a, b) -> a < b }
        return ascending && numbers.first() >= 0 && numbers.last() < exits(info)
    }

    private fun numbersFit(
        count: Int, numbers: Any?, above: Double = Double.NEGATIVE_INFINITY,
    ): Boolean =
        numbers is List<*> && numbers.size == count &&
            numbers.all { isNumber(it) && (it as Number).toDouble() > above }

    private fun confidenceFits(confidence: Any?, info: Map<String, Any?>): Boolean {
        if (confidence !in Confidence.NAMES && confidence != "learned") return false
        val wanted = if (confidence == "learned") exits(info) else 0
        return (networks(info) ?: emptyList()).size == wanted
    }

    private fun atLeast2(value: Any?) = value is Long && value in 2..Int.MAX_VALUE

    private fun at(value: Any?, key: String): Any? {
        if (value is Map<*, *>) return if (key in value) value[key] else throw Unfit("'$key'")
        throw Unfit(
            when (value) {
                is String -> "string indices must be integers, not 'str'"
                is List<*> -> "list indices must be integers or slices, not str"
                is Boolean -> "'bool' object is not subscriptable"
                is Double -> "'float' object is not subscriptable"
                is Number -> "'int' object is not subscriptable"
                else -> "'NoneType' object is not subscriptable"
            }
        )
    }

    private fun agreementFits(agreement: Any?): Boolean {
        val members = at(agreement, "members")
        val share = at(agreement, "share")
        return atLeast2(members) && isNumber(share) &&
            (share as Number).toDouble().let { 0 < it && it <= 1 }
    }

    private fun preprocessingFits(preprocessing: Any?): Boolean {
        val mean = at(preprocessing, "mean")
        val std = at(preprocessing, "std")
        val count = (mean as? List<*> ?: return false).size
        return count > 0 && numbersFit(count, mean) && numbersFit(count, std, 0.0)
    }

    private fun inputsFit(inputs: Any?): Boolean {
        if (inputs !is List<*> || inputs.isEmpty()) return false
        val fits = inputs.all { one ->
            one is Map<*, *> && one.keys == setOf("name", "shape", "dtype") &&
                one["name"] is String && one["dtype"] in Signatures.DTYPES &&
                (one["shape"] as? List<*>)?.all { it is Long && it > 0 } == true
        }
        return fits && inputs.map { (it as Map<*, *>)["name"] }.toSet().size == inputs.size
    }

    // sizes that no tensor has are found unlike its shape
    private fun input(json: Map<*, *>) = Input(
        json["name"] as String,
        (json["shape"] as List<*>).map { minOf(it as Long, Int.MAX_VALUE.toLong()).toInt() },
        json["dtype"] as String,
    )

    private fun pixelRule(value: Any?): PixelRule? {
        val json = value as? Map<*, *> ?: throw Unfit("a rule must be an object")
        val must = setOf("height", "width", "channels")
        val fixed = mapOf("resize" to "cover", "filter" to "bilinear", "antialias" to true)
        if (!json.keys.containsAll(must)) throw Unfit("a rule must have ${must.joinToString()}")
        if (!(must + fixed.keys + "margin").containsAll(json.keys)) throw Unfit("no such rule")
        if (fixed.any { (key, value) -> key in json && json[key] != value }) {
            throw Unfit("A rule must have resize=\"cover\", filter=\"bilinear\" and antialias=True")
        }
        val sides = must.map { json[it] as? Long ?: throw Unfit("`$it` must be an integer") }
        val margin = if ("margin" in json) json["margin"] else 1L
        if (!isNumber(margin)) throw Unfit("`margin` must be a number")
        try {
            val most = Int.MAX_VALUE.toLong()
            val (height, width, channels) = sides.map { it.coerceIn(0, most).toInt() }
            return PixelRule(height, width, channels, (margin as Number).toDouble())
        } catch (error: IllegalArgumentException) {
            throw Unfit(error.message ?: "")
        }
    }

    /** Returns the networks of a learned policy, one per exit; the last exit has none. */
    private fun networks(info: Map<String, Any?>): List<Network?>? {
        val packed = info["stopping"] ?: return null
        if (packed !is List<*>) throw Unfit("stopping networks that are no list")
        return packed.map { network ->
            if (network !is List<*>) throw Unfit("a network that is no list")
            val layers = network.map(::dense)
            val follow = layers.zipWithNext().all { (a, b) -> a.bias.size == b.rows }
            if (layers.size != 3 || !follow || layers[2].bias.size != 2) {
                throw Unfit("stopping networks of other shapes")
            }
            layers
        } + null
    }

    private fun dense(json: Any?): Dense {
        val kernel = floats(at(json, "kernel"))
        val bias = floats(at(json, "bias"))
        val shape = at(json, "shape") as? List<*>
        val sides = shape?.map { it as? Long ?: -1L }
        val fits = sides != null && sides.size == 2 && sides.all { it >= 0 } &&
            times(sides[0], sides[1]) == kernel.size.toLong() && sides[1] == bias.size.toLong() &&
            (kernel + bias).all { it.isFinite() }
        if (!fits) throw Unfit("a stopping network whose kernel is not of its shape")
        return Dense(sides[0].toInt(), kernel, bias)
    }

    private fun floats(text: Any?): DoubleArray {
        val bytes = try {
            ByteBuffer.wrap(Base64.decode(text as? String ?: throw Unfit("no base64")))
        } catch (error: IllegalArgumentException) {
            throw Unfit("no base64")
        }
        if (bytes.remaining() % 4 != 0) throw Unfit("no float32")
        bytes.order(ByteOrder.LITTLE_ENDIAN)
        return DoubleArray(bytes.remaining() / 4) { bytes.getFloat(4 * it).toDouble() }
    }
}
