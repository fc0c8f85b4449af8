package io.github.keras_adaptive.anytime

/** Checks what is given for an image, and makes of it what the file's rule and stages take. */
internal class Arguments(private val info: Info, private val inputs: List<Input>) {
    private val plain = info.version < 3
    private val mean = info.preprocessing?.mean?.map { it.toFloat() }
    private val std = info.preprocessing?.std?.map { it.toFloat() }

    /** The least and the greatest float of an image; `null` if the file does not say. */
    private val range: ClosedFloatingPointRange<Float>? = info.preprocessing?.let {
        val black = it.mean.indices.minOf { c -> -it.mean[c] / it.std[c] }
        val white = it.mean.indices.maxOf { c -> (1 - it.mean[c]) / it.std[c] }
        val margin = FAR * (white - black)
        (black - margin).toFloat()..(white + margin).toFloat()
    }

    fun deadline(deadlineMs: Double?): Double {
        if (deadlineMs == null) return Double.POSITIVE_INFINITY
        require(deadlineMs >= 0) {
            "`deadlineMs` must be a number of at least 0, or null. Received: deadlineMs=$deadlineMs"
        }
        return deadlineMs
    }

    fun patience(patience: Int?): Int? {
        if (patience == null) return info.patience
        require(patience >= 2) {
            "`patience` must be an integer of at least 2, or null. Received: patience=$patience"
        }
        return patience
    }

    /** Returns one threshold per stage of the file: in log-odds, but for version 2. */
    fun limits(thresholds: DoubleArray?): DoubleArray {
        val own = if (plain) info.thresholds else info.logOdds!!
        if (thresholds == null) return info.exits.map { own[it] }.toDoubleArray()
        check(thresholds)
        return info.exits.map {
            when {
                plain -> thresholds[it]
                // the file's own keep the digits that the users' unit does not show
                thresholds[it] == info.thresholds[it] -> own[it]
                else -> Confidence.toLogOdds(info.confidence, thresholds[it])
            }
        }.toDoubleArray()
    }

    private fun check(found: DoubleArray) {
        val total = info.thresholds.size
        require(found.size == total && found.none { it.isNaN() }) {
            "`thresholds` must be $total numbers, one per exit. Received: " +
                "thresholds=${found.contentToString()}"
        }
        // behind an exit where every image leaves, and at the last, nothing is looked at
        val ends = info.exits.firstOrNull { found[it] == Double.NEGATIVE_INFINITY } ?: (total - 1)
        val missing = (0 until ends).filter {
            val asked = found[it] < Double.POSITIVE_INFINITY && found[it] != info.thresholds[it]
            asked && it !in info.exits
        }
        require(missing.isEmpty()) {
            "`thresholds` must be +inf for exits $missing, which were closed when the file was " +
                "written. Received: thresholds=${found.contentToString()}"
        }
    }

    /** Returns the network's inputs by name. */
    fun tensors(image: Any): Map<String, Any> {
        if (image is Map<*, *>) {
            require(image.keys == inputs.map { it.name }.toSet()) {
                "`inputs` must be a map of ${inputs.map { it.name }.sorted()}. " +
                    "Received: one of ${image.keys.map { "$it" }.sorted()}"
            }
            return inputs.associate { it.name to prepared(it, image[it.name]) }
        }
        require(inputs.size == 1) {
            "`image` must be a map of the inputs ${inputs.map { it.name }.sorted()}. " +
                "Received: a ${image.javaClass.simpleName}"
        }
        return mapOf(inputs[0].name to prepared(inputs[0], image))
    }

    /** Returns an array that the caller's changes do not reach. */
    fun copy(array: Any): Any = when (array) {
        is FloatArray -> array.copyOf()
        is IntArray -> array.copyOf()
        is LongArray -> array.copyOf()
        is ShortArray -> array.copyOf()
        is BooleanArray -> array.copyOf()
        else -> (array as ByteArray).copyOf()
    }

    /** Returns an input of zeros. */
    fun black(input: Input): Any = when (input.dtype) {
        "float32" -> FloatArray(input.size)
        "int32" -> IntArray(input.size)
        "int64" -> LongArray(input.size)
        "int16" -> ShortArray(input.size)
        "bool" -> BooleanArray(input.size)
        else -> ByteArray(input.size)
    }

    private fun prepared(input: Input, given: Any?): Any {
        if (given is Picture) {
            val rule = info.pixels
            requireNotNull(rule) {
                "`picture` must be pixels of shape ${input.shape}: the file does not say how " +
                    "pictures become pixels"
            }
            return prepared(input, rule.resize(given))
        }
        val called = if (inputs.size == 1) "`image`" else "`inputs[\"${input.name}\"]`"
        val size = when (given) {
            is ByteArray -> given.size
            is ShortArray -> given.size
            is IntArray -> given.size
            is LongArray -> given.size
            is FloatArray -> given.size
            is BooleanArray -> given.size
            else -> null
        }
        requireNotNull(size) {
            val kind = given?.javaClass?.simpleName
            "$called must be an array of ${input.dtype}. Received: a $kind"
        }
        require(size == input.size) {
            "$called must be ${input.size} numbers, of shape ${input.shape}. Received: $size"
        }
        if (input.dtype == "float32" && given is ByteArray) return standardized(given, called)
        require(given!!.javaClass == black(input).javaClass) {
            "$called must be an array of ${input.dtype}. Received: a ${given.javaClass.simpleName}"
        }
        if (given is FloatArray) checkRange(given, called)
        return given
    }

    /** Returns pixels standardized as the file says, each step rounded to float32. */
    private fun standardized(pixels: ByteArray, called: String): FloatArray {
        require(mean != null && std != null) {
            "$called must be of floats: the file does not say how pixels are standardized. " +
                "Received: a ByteArray"
        }
        return FloatArray(pixels.size) {
            val channel = it % mean.size
            ((pixels[it].toInt() and 255) / 255f - mean[channel]) / std[channel]
        }
    }

    private fun checkRange(image: FloatArray, called: String) {
        require(image.all { it.isFinite() }) {
            "$called must be finite. Received: NaN or infinite values"
        }
        val range = range ?: return
        val wrong = image.firstOrNull { it !in range }
        require(wrong == null) {
            "$called must be pixels of 8 bits, or floats standardized as the file says. " +
                "Received: $wrong, which no pixel becomes"
        }
    }

    private companion object {
        const val FAR = 10 // times the range from black to white
    }
}
