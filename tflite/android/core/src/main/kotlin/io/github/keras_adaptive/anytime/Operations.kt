package io.github.keras_adaptive.anytime

/**
 * What each operation of a .tflite file may read and write.
 *
 * An interpreter trusts the file: a kernel reads as many inputs, of such types and shapes, as the
 * converter gives its operation, and looks beyond the end of memory where it finds others. So each
 * kind that the exporter writes is here with the types of its tensors and the shapes that follow
 * from them; a file with anything else is refused before an interpreter sees it.
 */
internal object Operations {
    const val IF = 118
    const val WHILE = 119
    private const val LARGEST = 1L shl 28 // numbers of a tensor
    private const val MUST = true // its options must be there
    private const val MAY = false // they may be left out where they say nothing

    /** A kind of operations; `reads` are the letters of what it reads and writes. */
    class Kind(
        val number: Int,
        val name: String,
        val options: Int,
        val must: Boolean,
        val reads: Regex,
        val rule: ShapeRule,
    )

    private fun kind(
        number: Int, name: String, options: Int, must: Boolean, reads: String, rule: ShapeRule,
    ) = Kind(number, name, options, must, Regex(reads), rule)

    private val nothing: ShapeRule = { emptyList() }

    // the number and name of an operation, the number of its options, whether they must be there,
    // the letters of what it reads and writes (- for what is left out), the shapes that follow
    val KINDS: Map<Int, Kind> = listOf(
        kind(IF, "IF", 92, MUST, "", nothing),
        kind(WHILE, "WHILE", 93, MUST, "", nothing),
        kind(0, "ADD", 11, MUST, "([filq])\\1>\\1", ::add),
        kind(1, "AVERAGE_POOL_2D", 5, MUST, "([fq])>\\1", ::pool),
        kind(2, "CONCATENATION", 10, MUST, "([fiulbwqc])\\1*>\\1", ::concatenate),
        kind(3, "CONV_2D", 1, MUST, "f[fqQ][f-]?>f|q[qQ][i-]?>q", ::conv),
        kind(4, "DEPTHWISE_CONV_2D", 2, MUST, "f[fqQ]f>f|q[qQ]i>q", ::depthwise),
        kind(5, "DEPTH_TO_SPACE", 94, MUST, "([fiulqc])>\\1", ::spaceToDepth),
        kind(6, "DEQUANTIZE", 38, MAY, "[hqQ]>f", ::same),
        kind(8, "FLOOR", 0, MAY, "f>f", ::same),
        kind(9, "FULLY_CONNECTED", 8, MUST, "f[fqQ][f-]?>f|q[qQ][i-]?>q", ::dense),
        kind(11, "L2_NORMALIZATION", 12, MUST, "([fq])>\\1", ::last),
        kind(13, "LOCAL_RESPONSE_NORMALIZATION", 13, MUST, "f>f", ::response),
        kind(14, "LOGISTIC", 0, MAY, "([fq])>\\1", ::same),
        kind(17, "MAX_POOL_2D", 5, MUST, "([fq])>\\1", ::pool),
        kind(18, "MUL", 21, MUST, "([filq])\\1>\\1", broadcasting(6)),
        kind(19, "RELU", 0, MAY, "([fq])>\\1", ::same),
        kind(20, "RELU_N1_TO_1", 0, MAY, "([fq])>\\1", ::same),
        kind(21, "RELU6", 0, MAY, "([fq])>\\1", ::same),
        kind(22, "RESHAPE", 17, MAY, "([fiulbwqc])i?>\\1", ::reshape),
        kind(23, "RESIZE_BILINEAR", 15, MUST, "([fq])i>\\1", ::resize),
        kind(25, "SOFTMAX", 9, MUST, "([fq])>\\1", ::last),
        kind(26, "SPACE_TO_DEPTH", 19, MUST, "([fiulqc])>\\1", ::spaceToDepth),
        kind(28, "TANH", 0, MAY, "([fq])>\\1", ::same),
        kind(34, "PAD", 22, MAY, "([fiulbwqc])[il]>\\1", ::pad),
        kind(36, "GATHER", 23, MUST, "([fiulbwqc])[il]>\\1", ::gather),
        kind(37, "BATCH_TO_SPACE_ND", 24, MAY, "([filuq])ii>\\1", ::spaceToBatch),
        kind(38, "SPACE_TO_BATCH_ND", 25, MAY, "([filuq])ii>\\1", ::spaceToBatch),
        kind(39, "TRANSPOSE", 26, MAY, "([fiulbwqc])i>\\1", ::transpose),
        kind(40, "MEAN", 27, MUST, "([filq])i>\\1", ::reduce),
        kind(41, "SUB", 28, MUST, "([filq])\\1>\\1", ::add),
        kind(42, "DIV", 29, MUST, "([fiq])\\1>\\1", divide(5)),
        kind(43, "SQUEEZE", 30, MUST, "([fiulbwqc])>\\1", ::squeeze),
        kind(45, "STRIDED_SLICE", 32, MUST, "([fiulbwqc])iii>\\1", ::stridedSlice),
        kind(47, "EXP", 33, MAY, "([fq])>\\1", ::same),
        kind(48, "TOPK_V2", 34, MAY, "([filq])i>\\1i", ::topK),
        kind(49, "SPLIT", 35, MUST, "i([fiulbwqc])>\\1+", ::split),
        kind(50, "LOG_SOFTMAX", 36, MAY, "([fq])>\\1", ::last),
        kind(53, "CAST", 37, MAY, "[filubwc]>[filubwc]", ::same),
        kind(54, "PRELU", 0, MAY, "([fq])\\1>\\1", ::prelu),
        kind(55, "MAXIMUM", 39, MAY, "([filuwq])\\1>\\1", broadcasting(5)),
        kind(56, "ARG_MAX", 40, MUST, "[fiuqb][il]>[il]", ::arg),
        kind(57, "MINIMUM", 39, MAY, "([filuwq])\\1>\\1", broadcasting(5)),
        kind(58, "LESS", 41, MAY, "([filq])\\1>b", ::compare),
        kind(59, "NEG", 42, MAY, "([fil])>\\1", ::same),
        kind(60, "PADV2", 43, MAY, "([fiulbwqc])[il]\\1>\\1", ::pad),
        kind(61, "GREATER", 44, MAY, "([filq])\\1>b", ::compare),
        kind(62, "GREATER_EQUAL", 45, MAY, "([filq])\\1>b", ::compare),
        kind(63, "LESS_EQUAL", 46, MAY, "([filq])\\1>b", ::compare),
        kind(64, "SELECT", 47, MAY, "b([filubwq])\\1>\\1", ::select),
        kind(65, "SLICE", 48, MAY, "([fiulbwqc])([il])\\2>\\1", ::slice),
        kind(66, "SIN", 0, MAY, "f>f", ::same),
        kind(67, "TRANSPOSE_CONV", 49, MUST, "i[fqQ]f[f-]?>f|i[qQ]q[i-]?>q", ::transposedConv),
        kind(69, "TILE", 51, MAY, "([fiulbwqc])[il]>\\1", ::tile),
        kind(70, "EXPAND_DIMS", 52, MAY, "([fiulbwqc])[il]>\\1", ::expand),
        kind(71, "EQUAL", 53, MAY, "([filbq])\\1>b", ::compare),
        kind(72, "NOT_EQUAL", 54, MAY, "([filbq])\\1>b", ::compare),
        kind(73, "LOG", 0, MAY, "([fq])>\\1", ::same),
        kind(74, "SUM", 27, MUST, "([filq])i>\\1", ::reduce),
        kind(75, "SQRT", 0, MAY, "f>f", ::same),
        kind(76, "RSQRT", 0, MAY, "([fq])>\\1", ::same),
        kind(77, "SHAPE", 55, MUST, "[fiulbwqc]>[il]", ::shapeOf),
        kind(78, "POW", 56, MAY, "([fi])\\1>\\1", broadcasting(4)),
        kind(79, "ARG_MIN", 57, MUST, "[fiuqb][il]>[il]", ::arg),
        kind(81, "REDUCE_PROD", 27, MUST, "([filq])i>\\1", ::reduce),
        kind(82, "REDUCE_MAX", 27, MUST, "([filuq])i>\\1", ::reduce),
        kind(83, "PACK", 59, MUST, "([fiulbwqc])\\1*>\\1", ::pack),
        kind(84, "LOGICAL_OR", 60, MAY, "bb>b", broadcasting(4)),
        kind(85, "ONE_HOT", 61, MUST, "[il]i([filubq])\\1>\\1", ::oneHot),
        kind(86, "LOGICAL_AND", 62, MAY, "bb>b", broadcasting(4)),
        kind(87, "LOGICAL_NOT", 63, MAY, "b>b", ::same),
        kind(88, "UNPACK", 64, MUST, "([fiulbwqc])>\\1+", ::unpack),
        kind(89, "REDUCE_MIN", 27, MUST, "([filuq])i>\\1", ::reduce),
        kind(90, "FLOOR_DIV", 65, MAY, "([fiwc])\\1>\\1", divide(4)),
        kind(91, "REDUCE_ANY", 27, MUST, "bi>b", ::reduce),
        kind(92, "SQUARE", 66, MAY, "f>f", ::same),
        kind(93, "ZEROS_LIKE", 67, MAY, "([fil])>\\1", ::same),
        kind(94, "FILL", 68, MAY, "[il]([filubwqc])>\\1", ::fill),
        kind(95, "FLOOR_MOD", 72, MAY, "([filwc])\\1>\\1", divide(4)),
        kind(97, "RESIZE_NEAREST_NEIGHBOR", 74, MUST, "([fq])i>\\1", ::resize),
        kind(98, "LEAKY_RELU", 75, MUST, "([fq])>\\1", ::same),
        kind(99, "SQUARED_DIFFERENCE", 76, MAY, "([fiq])\\1>\\1", ::squaredDifference),
        kind(100, "MIRROR_PAD", 77, MUST, "([fiulbwqc])[il]>\\1", ::pad),
        kind(101, "ABS", 78, MAY, "([fiq])>\\1", ::same),
        kind(102, "SPLIT_V", 79, MUST, "([fiulbwqc])[il]i>\\1+", ::splitUnequal),
        kind(104, "CEIL", 0, MAY, "f>f", ::same),
        kind(105, "REVERSE_V2", 81, MAY, "([fiulbwqc])i>\\1", ::along),
        kind(106, "ADD_N", 82, MAY, "([fi])\\1*>\\1", ::allSame),
        kind(107, "GATHER_ND", 83, MAY, "([fiulbwqc])[il]>\\1", ::gatherNd),
        kind(108, "COS", 84, MAY, "f>f", ::same),
        kind(111, "ELU", 0, MAY, "([fq])>\\1", ::same),
        kind(114, "QUANTIZE", 89, MAY, "[fq]>q", ::same),
        kind(116, "ROUND", 0, MAY, "f>f", ::same),
        kind(117, "HARD_SWISH", 91, MAY, "([fq])>\\1", ::same),
        kind(122, "SCATTER_ND", 97, MAY, "i([filubq])i>\\1", ::scatter),
        kind(123, "SELECT_V2", 98, MAY, "b([filubwq])\\1>\\1", broadcasting(5)),
        kind(126, "BATCH_MATMUL", 101, MUST, "f[fq]>f|qq>q", ::matmul),
        kind(128, "CUMSUM", 102, MUST, "([fil])i>\\1", ::along),
        kind(130, "BROADCAST_TO", 104, MAY, "([fiulbwqc])[il]>\\1", ::broadcastTo),
        kind(132, "CONV_3D", 106, MUST, "ff[f-]?>f", ::conv3d),
        kind(140, "REDUCE_ALL", 27, MUST, "bi>b", ::reduce),
        kind(141, "CONV_3D_TRANSPOSE", 106, MUST, "iff[f-]?>f", ::transposedConv3d),
        kind(147, "BUCKETIZE", 115, MUST, "[fil]>i", ::same),
        kind(150, "GELU", 116, MUST, "([fq])>\\1", ::same),
        kind(151, "DYNAMIC_UPDATE_SLICE", 117, MAY, "([filbq])\\1[il]>\\1", ::update),
        kind(152, "RELU_0_TO_1", 0, MAY, "([fq])>\\1", ::same),
        kind(153, "UNSORTED_SEGMENT_PROD", 118, MAY, "([fi])ii>\\1", ::segments),
        kind(154, "UNSORTED_SEGMENT_MAX", 119, MAY, "([fi])ii>\\1", ::segments),
        kind(155, "UNSORTED_SEGMENT_SUM", 121, MAY, "([fi])ii>\\1", ::segments),
        kind(156, "ATAN2", 122, MAY, "ff>f", ::allSame),
        kind(157, "UNSORTED_SEGMENT_MIN", 120, MAY, "([fi])ii>\\1", ::segments),
        kind(158, "SIGN", 123, MAY, "f>f", ::same),
    ).associateBy { it.number }

    val TRANSPOSED = setOf(67, 141)

    // where the activation is, that an operation applies at its end
    private val ACTIVATION = mapOf(
        0 to 0, 1 to 5, 2 to 1, 3 to 3, 4 to 4, 9 to 0, 11 to 0, 17 to 5, 18 to 0, 41 to 0,
        42 to 0, 67 to 3, 132 to 4, 141 to 4,
    )
    private const val ACTIVATIONS = 4 // none, relu, relu from -1 to 1, relu6

    // what each number of the output is multiplied from: an input and the axes summed over
    private val SUMS = mapOf(
        3 to (1 to listOf(1, 2, 3)),
        4 to (1 to listOf(1, 2)),
        9 to (1 to listOf(1)),
        67 to (1 to listOf(1, 2, 3)),
        132 to (1 to listOf(0, 1, 2, 3)),
        141 to (1 to listOf(0, 1, 2, 4)),
    )

    /**
     * Returns about how many multiplications and moves an operation takes.
     *
     * @throws Unlike if its tensors are not as its kernel takes them for granted.
     */
    fun check(o: Operation): Long {
        val kind = KINDS.getValue(o.kind)
        val reads = o.inputs.joinToString("") { it?.letter?.toString() ?: "-" }
        val writes = o.outputs.joinToString("") { it.letter.toString() }
        if (!kind.reads.matches("$reads>$writes")) {
            throw Unlike("reads or writes tensors of other types, or another number of them")
        }
        ACTIVATION[o.kind]?.let {
            needs(o.small(it) in 0 until ACTIVATIONS, "has an impossible option")
        }
        val found = kind.rule(o)
        for ((shape, out) in found.zip(o.outputs)) {
            needs(product(shape) <= LARGEST, "writes more than a device can hold")
            if (out.part == null) {
                val said = out.shape ?: emptyList()
                needs(out.shape == shape, "writes $said where it computes ${tuple(shape)}")
            }
        }
        passOn(o)
        var work = (o.inputs + o.outputs).fold(0L) { sum, tensor -> plus(sum, tensor?.size ?: 0) }
        if (o.kind == 126) work = plus(work, times(product(found[0]), o.shape(0).takeLast(2).max()))
        SUMS[o.kind]?.let { (number, axes) ->
            val summed = product(axes.map { o.shape(number)[it] })
            val moved = if (o.kind in TRANSPOSED) o.shape(2) else found[0]
            work = plus(work, times(product(moved), summed))
        }
        return work
    }

    /** Keeps what is known of a counter: one more than it, or the same in another shape. */
    private fun passOn(o: Operation) {
        val out = o.outputs[0]
        if (o.kind == 22) {
            o.given(0).values?.let { out.values = it }
        } else if (o.kind == 0 && out.letter in "il" && out.size == 1L) {
            val a = o.given(0).values?.singleOrNull() ?: return
            val b = o.given(1).values?.singleOrNull() ?: return
            if (a.counter != null && b.counter != null) return
            val counter = a.counter ?: b.counter ?: return
            out.values = listOf(Value(counter, plus(a.number, b.number)))
        }
    }

    /** Checks that tensors that pass into or out of a subgraph are as it has them. */
    fun checkCall(given: List<Tensor?>, taken: List<Tensor>) {
        needs(given.size == taken.size, "it passes another number of tensors")
        for ((a, b) in given.zip(taken)) {
            needs(a?.shape != null, "it passes nothing")
            val same = a!!.shape == b.shape && plain(a.letter) == plain(b.letter)
            needs(same, "it passes tensors of other shapes or types")
        }
    }

    /** Returns a shape as Python writes it. */
    fun tuple(shape: Shape) =
        if (shape.size == 1) "(${shape[0]},)" else shape.joinToString(", ", "(", ")")

    private fun plain(letter: Char) = if (letter == 'c') 'q' else letter
}
