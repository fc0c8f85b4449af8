package org.tensorflow.lite

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.desktop.LiteRtBackend
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Stands for the class of tensorflow-lite, whose native code needs Android.
 *
 * The adapter is compiled against the real class, and linked with this one when it is tested: by
 * the same names, arguments and results. It runs stages on a JVM, and checks that every tensor is
 * passed on, byte by byte.
 */
class Interpreter(content: ByteBuffer, options: Options) : AutoCloseable {
    class Options {
        var threads = -1

        fun setNumThreads(numThreads: Int): Options {
            threads = numThreads
            return this
        }
    }

    private lateinit var file: CheckedFile
    private lateinit var backend: Backend
    private val model: AnytimeModel
    private val features = HashMap<String, ByteArray>()
    private var runs = 0

    init {
        require(content.isDirect && content.order() == ByteOrder.nativeOrder())
        model = AnytimeModel(content) {
            file = it
            LiteRtBackend.opener(threads = options.threads.takeIf { many -> many > 0 }).open(it)
                .also { opened -> backend = opened }
        }
    }

    fun runSignature(inputs: Map<String, Any>, outputs: Map<String, Any>, key: String) {
        val signature = (file.stages + listOfNotNull(file.predict)).first { it.key == key }
        check(inputs.keys == signature.inputs.map { it.name }.toSet())
        check(outputs.keys == signature.outputs.map { it.name }.toSet())
        val given = HashMap<String, Any>()
        for (spec in signature.inputs) {
            val bytes = bytes(inputs.getValue(spec.name) as ByteBuffer, spec.size * spec.width)
            val feature = features[spec.name]
            if (feature != null) {
                check(feature.contentEquals(bytes)) { "${spec.name} was not passed on" }
            } else {
                given[spec.name] = array(bytes, spec.dtype)
            }
        }
        val stage = file.stages.indexOf(signature)
        val output = if (stage < 0) {
            backend.predict(given)
        } else {
            backend.start(given)
            backend.run(stage)
        }
        for (spec in signature.outputs) {
            val buffer = outputs.getValue(spec.name) as ByteBuffer
            val size = spec.size * spec.width
            check(buffer.isDirect && buffer.position() == 0 && buffer.capacity() == size)
            when (spec.name) {
                "logits" -> output.logits.forEach { buffer.putFloat(it) }
                "cost" -> buffer.putFloat(output.cost!!)
                "exit_index" -> buffer.putInt(output.exit!!)
                else -> {
                    runs += 1
                    val feature = ByteArray(size) { (it + runs).toByte() }
                    features[spec.name] = feature
                    buffer.put(feature)
                }
            }
        }
    }

    private fun bytes(buffer: ByteBuffer, size: Int): ByteArray {
        check(buffer.isDirect && buffer.order() == ByteOrder.nativeOrder())
        check(buffer.position() == 0 && buffer.capacity() == size)
        return ByteArray(size).also { buffer.duplicate().get(it) }
    }

    private fun array(bytes: ByteArray, dtype: String): Any {
        val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder())
        return when (dtype) {
            "float32" -> FloatArray(bytes.size / 4) { buffer.getFloat(4 * it) }
            "int32" -> IntArray(bytes.size / 4) { buffer.getInt(4 * it) }
            "int64" -> LongArray(bytes.size / 8) { buffer.getLong(8 * it) }
            else -> bytes
        }
    }

    override fun close() = model.close()
}
