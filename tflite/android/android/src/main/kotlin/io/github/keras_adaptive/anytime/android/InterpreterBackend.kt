package io.github.keras_adaptive.anytime.android

import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.Output
import io.github.keras_adaptive.anytime.Signature
import io.github.keras_adaptive.anytime.TensorSpec
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/**
 * Runs stages in the interpreter of `org.tensorflow:tensorflow-lite`, 2.16.1 for example.
 *
 * There is one buffer for each name: what one stage writes the next reads, as bytes, whatever
 * their type.
 */
public class InterpreterBackend private constructor(
    private val file: CheckedFile,
    options: Interpreter.Options,
) : Backend {
    private val interpreter = Interpreter(file.content, options)
    private val buffers = HashMap<String, ByteBuffer>()
    private val steps = file.stages.map(::Step)
    private val single = file.predict?.let(::Step)

    private inner class Step(val signature: Signature) {
        val inputs: Map<String, Any> = signature.inputs.associate { it.name to shared(it) }
        val outputs: Map<String, ByteBuffer> = signature.outputs.associate {
            it.name to if (it.name in OWN) memory(it) else shared(it)
        }
    }

    private fun shared(spec: TensorSpec) = buffers.getOrPut(spec.name) { memory(spec) }

    private fun memory(spec: TensorSpec) =
        ByteBuffer.allocateDirect(spec.size * spec.width).order(ByteOrder.nativeOrder())

    override fun start(inputs: Map<String, Any>) {
        for ((name, values) in inputs) {
            val buffer = buffers.getValue(name)
            buffer.rewind()
            when (values) {
                is FloatArray -> buffer.asFloatBuffer().put(values)
                is ByteArray -> buffer.put(values)
                is ShortArray -> buffer.asShortBuffer().put(values)
                is IntArray -> buffer.asIntBuffer().put(values)
                is LongArray -> buffer.asLongBuffer().put(values)
                is BooleanArray -> for (value in values) buffer.put(if (value) 1.toByte() else 0)
            }
        }
    }

    override fun run(stage: Int): Output = output(steps[stage])

    override fun predict(inputs: Map<String, Any>): Output {
        start(inputs)
        return output(single!!)
    }

    private fun output(step: Step): Output {
        for (buffer in step.inputs.values) (buffer as ByteBuffer).rewind()
        for (buffer in step.outputs.values) buffer.rewind()
        interpreter.runSignature(step.inputs, step.outputs, step.signature.key)
        val logits = step.outputs.getValue("logits")
        logits.rewind()
        return Output(
            FloatArray(logits.capacity() / 4).also { logits.asFloatBuffer().get(it) },
            step.outputs["cost"]?.getFloat(0),
            step.outputs["exit_index"]?.getInt(0),
        )
    }

    override fun close(): Unit = interpreter.close()

    public companion object {
        private val OWN = setOf("logits", "cost", "exit_index") // of each signature alone

        /**
         * Returns what opens files.
         *
         * @param threads of the interpreter; `null`: its default.
         */
        @JvmStatic
        @JvmOverloads
        public fun opener(threads: Int? = null): Backend.Opener {
            require(threads == null || threads >= 1) {
                "`threads` must be a positive integer or null. Received: threads=$threads"
            }
            return Backend.Opener {
                val options = Interpreter.Options()
                if (threads != null) options.setNumThreads(threads)
                InterpreterBackend(it, options)
            }
        }
    }
}
