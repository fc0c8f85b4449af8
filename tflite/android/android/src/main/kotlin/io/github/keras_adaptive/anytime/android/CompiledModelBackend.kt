package io.github.keras_adaptive.anytime.android

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.Output
import io.github.keras_adaptive.anytime.Signature
import io.github.keras_adaptive.anytime.TensorSpec
import java.io.File
import java.io.FileOutputStream

/**
 * Runs stages in the CompiledModel of LiteRT 2, `com.google.ai.edge.litert:litert`, on the CPU.
 *
 * There is one buffer for each name: what one stage writes the next reads, and nothing is copied.
 */
public class CompiledModelBackend private constructor(
    private val model: CompiledModel,
    file: CheckedFile,
) : Backend {
    private val buffers = HashMap<String, TensorBuffer>()
    private val owned = ArrayList<TensorBuffer>()
    private val steps: List<Step>
    private val single: Step?

    private class Step(
        val key: String,
        val inputs: Map<String, TensorBuffer>,
        val outputs: Map<String, TensorBuffer>,
    )

    init {
        try {
            steps = file.stages.map(::step)
            single = file.predict?.let(::step)
        } catch (error: Exception) { // LiteRtException is no RuntimeException
            close()
            throw error
        }
    }

    private fun step(signature: Signature): Step {
        val key = signature.key
        val inputs = signature.inputs.associate { spec ->
            spec.name to
                buffers.getOrPut(spec.name) { own(model.createInputBuffer(spec.name, key)) }
        }
        val outputs = signature.outputs.associate { spec ->
            spec.name to own(model.createOutputBuffer(spec.name, key)).also {
                if (spec.name !in OWN) buffers[spec.name] = it
            }
        }
        return Step(key, inputs, outputs)
    }

    private fun own(buffer: TensorBuffer) = buffer.also { owned.add(it) }

    override fun start(inputs: Map<String, Any>) {
        for ((name, values) in inputs) {
            val buffer = buffers.getValue(name)
            when (values) {
                is FloatArray -> buffer.writeFloat(values)
                is IntArray -> buffer.writeInt(values)
                is ByteArray -> buffer.writeInt8(values)
                is BooleanArray -> buffer.writeBoolean(values)
            }
        }
    }

    override fun run(stage: Int): Output = output(steps[stage])

    override fun predict(inputs: Map<String, Any>): Output {
        start(inputs)
        return output(single!!)
    }

    private fun output(step: Step): Output {
        model.run(step.inputs, step.outputs, step.key)
        return Output(
            step.outputs.getValue("logits").readFloat(),
            step.outputs["cost"]?.readFloat()?.get(0),
            step.outputs["exit_index"]?.readInt()?.get(0),
        )
    }

    override fun close() {
        owned.forEach { it.close() }
        owned.clear()
        model.close()
    }

    public companion object {
        private val OWN = setOf("logits", "cost", "exit_index") // of each signature alone
        private val WRITTEN = setOf("float32", "int32", "int8", "bool") // by LiteRT's TensorBuffer

        /**
         * Returns what opens files.
         *
         * @param folder of the app's own, its `cacheDir` for example: LiteRT opens files by their
         *   path alone, so what was checked is written there, opened, and removed.
         * @param threads of the interpreter; `null`: its default.
         */
        @JvmStatic
        @JvmOverloads
        public fun opener(folder: File, threads: Int? = null): Backend.Opener {
            require(threads == null || threads >= 1) {
                "`threads` must be a positive integer or null. Received: threads=$threads"
            }
            return Backend.Opener { open(it, folder, threads) }
        }

        private fun open(file: CheckedFile, folder: File, threads: Int?): Backend {
            val computed = file.stages.flatMap { it.outputs }.map(TensorSpec::name).toSet()
            val inputs = file.stages.flatMap { it.inputs }.filter { it.name !in computed }
            inputs.firstOrNull { it.dtype !in WRITTEN }?.let {
                throw IllegalArgumentException(
                    "CompiledModel takes inputs of $WRITTEN, and input ${it.name} is of " +
                        "${it.dtype}: use InterpreterBackend"
                )
            }
            val options = CompiledModel.Options(Accelerator.CPU)
            if (threads != null) options.cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
            val content = file.content.duplicate()
            val copy = File.createTempFile("anytime", ".tflite", folder)
            try {
                FileOutputStream(copy).channel.use {
                    while (content.hasRemaining()) it.write(content) // a full disk takes a part
                }
                return CompiledModelBackend(CompiledModel.create(copy.path, options), file)
            } finally {
                copy.delete()
            }
        }
    }
}
