package io.github.keras_adaptive.anytime.desktop

import com.sun.jna.Function
import com.sun.jna.Memory
import com.sun.jna.Native
import com.sun.jna.NativeLibrary
import com.sun.jna.Pointer
import com.sun.jna.ptr.PointerByReference
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.CheckedFile
import io.github.keras_adaptive.anytime.Output
import io.github.keras_adaptive.anytime.Signature
import io.github.keras_adaptive.anytime.TensorSpec
import java.io.File

/**
 * Runs stages on a JVM, in LiteRT's own library, `libLiteRt.so`, that of the Python package
 * `ai-edge-litert`.
 *
 * There is one buffer for each name: what one stage writes the next reads, and nothing is copied.
 */
public class LiteRtBackend private constructor(
    private val library: LiteRtLibrary,
    private val file: CheckedFile,
    threads: Int?,
) : Backend {
    private val owned = ArrayList<Pair<String, Pointer>>() // what is destroyed at the end
    private val buffers = HashMap<String, Buffer>()
    private val place = PointerByReference() // one, since a new one takes native memory each time
    private val compiled: Pointer
    private val steps: List<Step>
    private val single: Step?

    /** A tensor in memory that LiteRT reads and writes. */
    private class Buffer(val pointer: Pointer, val spec: TensorSpec)

    /** A signature with the buffers that it reads and writes, in LiteRT's order. */
    private inner class Step(
        val index: Long,
        inputs: List<Buffer>,
        val outputs: Map<String, Buffer>,
        order: List<Buffer>,
    ) {
        val count = inputs.size.toLong()
        val inputPointers = pointers(inputs)
        val outputPointers = pointers(order)
        val outputCount = order.size.toLong()
    }

    init {
        try {
            val content = Native.getDirectBufferPointer(file.content)
            val size = file.content.limit().toLong()
            val model = owning("Model") {
                library.call("CreateModelFromBuffer", library.environment, content, size, it)
            }
            val options = options(threads)
            compiled = try {
                owning("CompiledModel") {
                    library.call("CreateCompiledModel", library.environment, model, options, it)
                }
            } finally {
                library.destroy("Options", options)
            }
            val keys = keys(model)
            fun step(signature: Signature) = step(model, signature, keys.indexOf(signature.key))
            steps = file.stages.map(::step)
            single = file.predict?.let(::step)
        } catch (error: RuntimeException) {
            close()
            throw error
        }
    }

    private fun options(threads: Int?): Pointer {
        val options = library.made { library.call("CreateOptions", it) }
        library.call("SetOptionsHardwareAccelerators", options, CPU)
        if (threads != null) {
            val text = library.strdup("num_threads = $threads\n")
            val own = library.made {
                library.call("CreateOpaqueOptions", "xnnpack", text, library.free, it)
            }
            library.call("AddOpaqueOptions", options, own)
        }
        return options
    }

    private fun keys(model: Pointer): List<String> =
        List(library.number("GetNumModelSignatures", model)) { i ->
            library.text("GetSignatureKey", signature(model, i))
        }

    private fun signature(model: Pointer, index: Int): Pointer =
        library.made { library.call("GetModelSignature", model, index.toLong(), it) }

    private fun step(model: Pointer, own: Signature, index: Int): Step {
        check(index >= 0) { "there is no signature ${own.key}" }
        val signature = signature(model, index)
        fun tensors(side: String, specs: List<TensorSpec>, shared: Boolean): List<Buffer> =
            List(library.number("GetNumSignature${side}s", signature)) { i ->
                val at = i.toLong()
                val name = library.text("GetSignature${side}Name", signature, at)
                val spec = specs.first { it.name == name }
                val make = {
                    val tensor = library.made {
                        library.call("GetSignature${side}TensorByIndex", signature, at, it)
                    }
                    Buffer(buffer(tensor, spec), spec)
                }
                if (shared && name !in OWN) buffers.getOrPut(name, make) else make()
            }
        val inputs = tensors("Input", own.inputs, true)
        val outputs = tensors("Output", own.outputs, own.key != "predict")
        return Step(index.toLong(), inputs, outputs.associateBy { it.spec.name }, outputs)
    }

    private fun buffer(tensor: Pointer, spec: TensorSpec): Pointer {
        val type = Memory(TYPE)
        library.call("GetRankedTensorType", tensor, type)
        val bytes = spec.size.toLong() * spec.width
        return owning("TensorBuffer") {
            library.call("CreateManagedTensorBuffer", library.environment, HOST, type, bytes, it)
        }
    }

    private fun owning(kind: String, create: (PointerByReference) -> Unit): Pointer =
        library.made(create).also { owned.add(kind to it) }

    private fun pointers(buffers: List<Buffer>): Memory {
        val width = Native.POINTER_SIZE.toLong()
        val found = Memory(maxOf(1L, width * buffers.size))
        buffers.forEachIndexed { i, buffer -> found.setPointer(width * i, buffer.pointer) }
        return found
    }

    override fun start(inputs: Map<String, Any>) {
        for ((name, values) in inputs) write(buffers.getValue(name), values)
    }

    override fun run(stage: Int): Output = output(steps[stage])

    override fun predict(inputs: Map<String, Any>): Output {
        start(inputs)
        return output(single!!)
    }

    private fun output(step: Step): Output {
        library.call(
            "RunCompiledModel", compiled, step.index,
            step.count, step.inputPointers, step.outputCount, step.outputPointers,
        )
        val outputs = step.outputs
        val logits = outputs.getValue("logits")
        return Output(
            read(logits) { getFloatArray(0, logits.spec.size) },
            outputs["cost"]?.let { read(it) { getFloat(0) } },
            outputs["exit_index"]?.let { read(it) { getInt(0) } },
        )
    }

    private fun write(buffer: Buffer, values: Any) = locked(buffer, WRITE) {
        when (values) {
            is FloatArray -> write(0, values, 0, values.size)
            is ByteArray -> write(0, values, 0, values.size)
            is ShortArray -> write(0, values, 0, values.size)
            is IntArray -> write(0, values, 0, values.size)
            is LongArray -> write(0, values, 0, values.size)
            is BooleanArray -> values.forEachIndexed { i, each ->
                setByte(i.toLong(), if (each) 1 else 0)
            }
            else -> throw IllegalArgumentException("no array: ${values.javaClass}")
        }
    }

    private fun <T> read(buffer: Buffer, use: Pointer.() -> T): T = locked(buffer, READ, use)

    private fun <T> locked(buffer: Buffer, mode: Int, use: Pointer.() -> T): T {
        library.call("LockTensorBuffer", buffer.pointer, place, mode)
        try {
            return place.value.use()
        } finally {
            library.call("UnlockTensorBuffer", buffer.pointer)
        }
    }

    override fun close() {
        for ((kind, pointer) in owned.reversed()) library.destroy(kind, pointer)
        owned.clear()
    }

    public companion object {
        private const val CPU = 1
        private const val HOST = 1
        private const val READ = 0
        private const val WRITE = 1
        private const val TYPE = 72L // bytes of a ranked tensor type
        private val OWN = setOf("logits", "cost", "exit_index") // of each signature alone

        /**
         * Returns what opens files.
         *
         * @param library path of `libLiteRt.so`; `null`: what the system property
         *   `anytime.litert.library` or the environment's `LITERT_LIBRARY` names.
         * @param threads of the interpreter; `null`: its default.
         */
        @JvmStatic
        @JvmOverloads
        public fun opener(library: File? = null, threads: Int? = null): Backend.Opener {
            require(threads == null || threads >= 1) {
                "`threads` must be a positive integer or null. Received: threads=$threads"
            }
            return Backend.Opener { LiteRtBackend(LiteRtLibrary.of(library), it, threads) }
        }
    }
}

/** The functions of libLiteRt.so, and an environment for this process. */
internal class LiteRtLibrary private constructor(path: String) {
    private val library = NativeLibrary.getInstance(path)
    private val process = NativeLibrary.getProcess()
    private val functions = java.util.concurrent.ConcurrentHashMap<String, Function>()

    val free: Function = process.getFunction("free")
    val environment: Pointer = made { call("CreateEnvironment", 2, options(), it) }

    /** Warnings and errors are told, no more; of accelerators only the CPU is looked for. */
    private fun options(): Pointer {
        val options = Memory(48) // tag, type, number: each in 8 bytes
        options.clear()
        listOf(MIN_LOG_SEVERITY to WARNING, ACCELERATORS to CPU).forEachIndexed { i, (tag, value) ->
            options.setInt(24L * i, tag)
            options.setInt(24L * i + 8, INTEGER)
            options.setLong(24L * i + 16, value)
        }
        return options
    }

    fun strdup(text: String): Pointer =
        process.getFunction("strdup").invokePointer(arrayOf<Any>(text))

    fun call(name: String, vararg arguments: Any?) {
        val function = functions.getOrPut(name) { library.getFunction("LiteRt$name") }
        val status = function.invokeInt(arguments)
        check(status == 0) { "LiteRt$name ended with status $status" }
    }

    fun destroy(kind: String, pointer: Pointer) {
        library.getFunction("LiteRtDestroy$kind").invokeVoid(arrayOf<Any>(pointer))
    }

    fun made(create: (PointerByReference) -> Unit): Pointer =
        PointerByReference().also(create).value

    fun number(name: String, of: Pointer): Int {
        val found = Memory(8)
        found.clear()
        call(name, of, found)
        return found.getLong(0).toInt()
    }

    fun text(name: String, vararg of: Any): String =
        made { call(name, *of, it) }.getString(0, "UTF-8")

    companion object {
        private const val ACCELERATORS = 24
        private const val MIN_LOG_SEVERITY = 25
        private const val INTEGER = 2
        private const val WARNING = 2L
        private const val CPU = 1L
        private val opened = HashMap<String, LiteRtLibrary>()

        fun of(file: File?): LiteRtLibrary {
            val path = file?.path ?: System.getProperty("anytime.litert.library")
                ?: System.getenv("LITERT_LIBRARY")
            require(path != null && File(path).isFile) {
                "`library`, or LITERT_LIBRARY, must be the path of libLiteRt.so, of the Python " +
                    "package ai-edge-litert. Received: library=$path"
            }
            return synchronized(opened) { opened.getOrPut(path) { LiteRtLibrary(path) } }
        }
    }
}
