// Names, arguments and results are those of LiteRT's own litert/kotlin/src/main/kotlin, in the
// folder com/google/ai/edge/litert; the file and line there are beside each, of Model.kt at commit
// b057fa3c and of TensorBuffer.kt at 0b7af5ac.
// They run stages on a JVM, and check that tensors are passed on as they must be.

package com.google.ai.edge.litert

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.Output
import io.github.keras_adaptive.anytime.Signature
import io.github.keras_adaptive.anytime.desktop.LiteRtBackend
import java.io.File

/** AcceleratorProvider.kt: `enum class Accelerator`. */
public enum class Accelerator { NONE, CPU, GPU, NPU }

/** TensorBuffer.kt, line 20. */
public class TensorBuffer internal constructor(private val size: Int) : AutoCloseable {
    internal var data: Any? = null
    internal var closed = false

    /** TensorBuffer.kt, line 25. */
    public fun writeInt(data: IntArray): Unit = write(data, data.size)

    /** TensorBuffer.kt, line 32. */
    public fun writeFloat(data: FloatArray): Unit = write(data, data.size)

    /** TensorBuffer.kt, line 39. */
    public fun writeInt8(data: ByteArray): Unit = write(data, data.size)

    /** TensorBuffer.kt, line 46. */
    public fun writeBoolean(data: BooleanArray): Unit = write(data, data.size)

    /** TensorBuffer.kt, line 53. */
    public fun readInt(): IntArray = data as IntArray

    /** TensorBuffer.kt, line 60. */
    public fun readFloat(): FloatArray = data as FloatArray

    private fun write(data: Any, size: Int) {
        check(!closed && size == this.size) { "a buffer of ${this.size} numbers takes $size" }
        this.data = data
    }

    override fun close() {
        closed = true
    }
}

/** Model.kt, line 115. */
public class CompiledModel private constructor(
    private val file: CheckedFile,
    private val backend: Backend,
    private val model: AnytimeModel,
) : AutoCloseable {
    /** Model.kt, line 125. */
    public data class CpuOptions(
        val numThreads: Int? = null,
        val xnnPackFlags: Int? = null,
        val xnnPackWeightCachePath: String? = null,
    )

    /** Model.kt, line 214. */
    public class Options(internal val accelerators: Set<Accelerator>) {
        public constructor(vararg accelerators: Accelerator) : this(setOf(*accelerators))

        public var cpuOptions: CpuOptions? = null
    }

    private val features = HashMap<String, TensorBuffer>() // of this image, by name

    private fun signature(key: String?): Signature =
        (file.stages + listOfNotNull(file.predict)).first { it.key == key }

    /** Model.kt, line 227. */
    public fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer =
        TensorBuffer(signature(signature).inputs.first { it.name == inputName }.size)

    /** Model.kt, line 245. */
    public fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer =
        TensorBuffer(signature(signature).outputs.first { it.name == outputName }.size)

    /** Model.kt, line 343. */
    public fun run(
        inputs: Map<String, TensorBuffer>,
        outputs: Map<String, TensorBuffer>,
        signature: String? = null,
    ) {
        val called = signature(signature)
        check(inputs.keys == called.inputs.map { it.name }.toSet()) { "inputs of $signature" }
        check(outputs.keys == called.outputs.map { it.name }.toSet()) { "outputs of $signature" }
        check((inputs.values + outputs.values).none { it.closed }) { "a buffer was closed" }
        val given = HashMap<String, Any>()
        for ((name, buffer) in inputs) {
            val data = buffer.data
            if (data != null) given[name] = data
            else check(features[name] === buffer) { "feature $name" }
        }
        val stage = file.stages.indexOf(called)
        val output: Output = if (stage < 0) {
            backend.predict(given)
        } else {
            backend.start(given)
            backend.run(stage)
        }
        for ((name, buffer) in outputs) {
            when (name) {
                "logits" -> buffer.data = output.logits
                "cost" -> buffer.data = floatArrayOf(output.cost!!)
                "exit_index" -> buffer.data = intArrayOf(output.exit!!)
                else -> features[name] = buffer
            }
        }
    }

    override fun close(): Unit = model.close()

    public companion object {
        /** Model.kt, line 436. */
        @JvmStatic
        @JvmOverloads
        public fun create(
            filePath: String, options: Options = Options(Accelerator.CPU),
        ): CompiledModel {
            val threads = options.cpuOptions?.numThreads
            lateinit var file: CheckedFile
            lateinit var backend: Backend
            val model = AnytimeModel(File(filePath)) {
                file = it
                LiteRtBackend.opener(threads = threads).open(it).also { opened -> backend = opened }
            }
            return CompiledModel(file, backend, model)
        }
    }
}
