package io.github.keras_adaptive.anytime

/** Checks that the signatures of a file are those that its info tells of. */
internal object Signatures {
    // dtypes of a network's inputs, and the letters of their tensors
    val DTYPES = mapOf(
        "float32" to 'f', "float16" to 'h', "uint8" to 'u', "int8" to 'c', "int16" to 'w',
        "int32" to 'i', "int64" to 'l', "bool" to 'b',
    )
    const val OLD_INPUT = "input_0" // its name in files of version 2, and `x` in their single call
    private val OWN = setOf("logits", "cost") // what each stage has of its own

    /** Returns what in a file's signatures is not as its info says, or `null`. */
    fun unlike(info: Info, signatures: Map<String, SignatureTensors>): String? {
        val stages = info.exits.indices.map { "stage_$it" }
        stages.firstOrNull { it !in signatures }?.let { return "there is no signature '$it'" }
        val strange = (signatures.keys - stages.toSet() - setOf("info", "predict")).minOrNull()
        if (strange != null) return "there is a signature ${quoted(strange)}"
        val named = info.inputs.map { it.name }.ifEmpty { listOf(OLD_INPUT) }
        val inputs = LinkedHashMap<String, Tensor>()
        val known = HashMap<String, Tensor>()
        val classes = signatures.getValue(stages[0]).outputs["logits"]?.shape?.lastOrNull() ?: 0
        for (key in stages) {
            val signature = signatures.getValue(key)
            for ((name, tensor) in signature.inputs) {
                val computed = known[name]
                if (computed != null) {
                    if (!tensor.isLike(computed)) {
                        return "$key reads ${quoted(name)} unlike how it is computed"
                    }
                } else if (name !in named) {
                    return "$key reads ${quoted(name)}, which nothing computes"
                } else if (!tensor.isLike(inputs.getOrPut(name) { tensor })) {
                    return "the stages read ${quoted(name)} in different forms"
                }
            }
            wrongAnswer(signature.outputs, classes)?.let { return "$key $it" }
            known.putAll(signature.outputs.filterKeys { it !in OWN })
        }
        named.firstOrNull { it !in inputs }?.let { return "no stage reads the input ${quoted(it)}" }
        for (name in named) {
            val tensor = inputs.getValue(name)
            val said = info.inputs.firstOrNull { it.name == name }
            val sides = said?.shape?.map { it.toLong() }
            val shape = if (sides == null) tensor.shape else listOf(1L) + sides
            val letter = DTYPES[said?.dtype ?: "float32"]
            if (tensor.shape != shape || shape?.firstOrNull() != 1L || tensor.letter != letter) {
                val found = tensor.shape?.let(Operations::tuple) ?: "None"
                return "its input ${quoted(name)} is of shape $found, or a type, unlike its info"
            }
        }
        return wrongForClasses(info, classes)
            ?: wrongForPixels(info, named.map { inputs.getValue(it) })
            ?: wrongSingleCall(info, signatures, inputs, classes)
    }

    private fun quoted(name: String) = Json.brief(name.take(80))

    private fun wrongAnswer(gives: Map<String, Tensor>, classes: Long): String? {
        val logits = gives["logits"]
        if (logits == null || !logits.isLike(Tensor('f', listOf(1, classes))) || classes < 2) {
            return "does not return logits of two classes or more"
        }
        val cost = gives["cost"]
        if (cost != null && !cost.isLike(Tensor('f', listOf(1)))) {
            return "does not return its cost as one number"
        }
        return null
    }

    private fun wrongForClasses(info: Info, classes: Long): String? {
        val names = info.classNames
        if (names != null && names.size.toLong() != classes) {
            return "class_names are ${names.size} for $classes classes"
        }
        if (info.networks.orEmpty().any { it != null && it[0].rows.toLong() != classes }) {
            return "stopping networks are not for $classes classes"
        }
        return null
    }

    private fun wrongForPixels(info: Info, inputs: List<Tensor>): String? {
        val shape = inputs[0].shape!!.drop(1)
        if (info.preprocessing != null) {
            val channels = shape.lastOrNull() ?: 1
            val mean = info.preprocessing.mean
            if (inputs.size > 1 || inputs[0].letter != 'f' || mean.size.toLong() != channels) {
                return "preprocessing is not for one float32 image of $channels channels"
            }
        }
        val rule = info.pixels ?: return null
        if (shape != listOf(rule.height, rule.width, rule.channels).map { it.toLong() }) {
            return "pixels are not for an image of shape ${Operations.tuple(shape)}"
        }
        return null
    }

    private fun wrongSingleCall(
        info: Info,
        signatures: Map<String, SignatureTensors>,
        inputs: Map<String, Tensor>,
        classes: Long,
    ): String? {
        val predict = signatures["predict"] ?: return null
        val wanted = HashMap(inputs)
        if (info.version < 3) wanted["x"] = wanted.remove(OLD_INPUT)!!
        wanted["thresholds"] = Tensor('f', listOf(info.exits.size.toLong()))
        val takes = predict.inputs
        val fits = takes.keys == wanted.keys && takes.all { (n, t) -> t.isLike(wanted.getValue(n)) }
        val exit = predict.outputs["exit_index"]
        if (!fits || exit == null || !exit.isLike(Tensor('i', listOf(1)))) {
            return "predict does not take the inputs and thresholds, or does not return an exit"
        }
        return wrongAnswer(predict.outputs, classes)?.let { "predict $it" }
    }
}
