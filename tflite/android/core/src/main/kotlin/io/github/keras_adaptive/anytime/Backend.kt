package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer

/**
 * A tensor of a signature.
 *
 * @property shape with the batch of one.
 * @property dtype see [Input.dtype].
 */
public class TensorSpec(
    public val name: String,
    public val shape: List<Int>,
    public val dtype: String,
) {
    /** How many numbers it has. */
    public val size: Int get() = shape.fold(1) { size, side -> size * side }

    /** How many bytes each of them takes. */
    public val width: Int
        get() = when (dtype) {
            "int64" -> 8
            "float32", "int32" -> 4
            "float16", "int16" -> 2
            else -> 1
        }
}

/** A signature of the file: what it reads and returns, by name. */
public class Signature(
    public val key: String,
    public val inputs: List<TensorSpec>,
    public val outputs: List<TensorSpec>,
)

/**
 * A file that was checked, as a runtime opens it.
 *
 * @property content its bytes, in direct memory, which must not change while it is open.
 * @property stages the signature of each stage.
 * @property predict that of the single call, if there is one.
 */
public class CheckedFile internal constructor(
    public val content: ByteBuffer,
    public val stages: List<Signature>,
    public val predict: Signature?,
)

/**
 * What a signature has answered.
 *
 * @property cost in multiply-accumulates, where gates decide what is computed.
 * @property exit of the single call.
 */
public class Output(
    public val logits: FloatArray,
    public val cost: Float? = null,
    public val exit: Int? = null,
)

/**
 * Runs the stages of one file, in one thread at a time.
 *
 * A backend keeps tensors by name, gives each stage those that it asks for, and passes features on
 * unchanged, whatever their type.
 */
public interface Backend : AutoCloseable {
    /**
     * Begins an image.
     *
     * @param inputs the network's inputs by name: a `FloatArray`, `ByteArray` (also of uint8),
     *   `ShortArray`, `IntArray`, `LongArray` or `BooleanArray`, as the dtype says.
     */
    public fun start(inputs: Map<String, Any>)

    /** Runs a stage, whose earlier ones must have run. */
    public fun run(stage: Int): Output

    /** Runs the single call; `inputs` are its own, thresholds among them. */
    public fun predict(inputs: Map<String, Any>): Output

    /** Frees the memory. */
    override fun close()

    /** Opens files. */
    public fun interface Opener {
        /** Opens a file that was checked. */
        public fun open(file: CheckedFile): Backend
    }
}
