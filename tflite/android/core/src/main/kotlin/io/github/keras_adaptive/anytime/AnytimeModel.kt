package io.github.keras_adaptive.anytime

import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * The answer of one exit for one image.
 *
 * @property label the index of the most probable class.
 * @property exit the exit that answered.
 * @property stoppedBy `null` while the answer may still get better.
 * @property elapsedMs since `classify`, `stream` or `predict` was called.
 * @property className `null` if the file names no classes.
 * @property cost multiply-accumulates that the answer has cost. Where gates decide what is
 *   computed, it is this image's own. `null` in files of version 2.
 */
public class Answer(
    public val probabilities: FloatArray,
    public val label: Int,
    public val exit: Int,
    public val stoppedBy: StoppedBy?,
    public val elapsedMs: Double,
    public val className: String?,
    public val cost: Double?,
)

/**
 * A network in one .tflite file that stops when it is confident or out of time.
 *
 * The file holds one signature per stage. After each stage there is an answer; the model goes on
 * until the answer is confident enough, the deadline is near, [cancel] is called, or the network
 * ends.
 *
 * One instance takes one image at a time: a call from another thread waits, and its deadline with
 * it. For more at a time, each thread takes an instance of its own.
 *
 * ```kotlin
 * AnytimeModel(File("model.tflite"), InterpreterBackend.opener()).use { model ->
 *     val answer = model.classify(pixels, deadlineMs = 5.0)
 *     println("${answer.className} at exit ${answer.exit}, by ${answer.stoppedBy}")
 * }
 * ```
 */
public class AnytimeModel internal constructor(
    content: ByteBuffer,
    name: String,
    opener: Backend.Opener,
    internal val clock: () -> Double,
) : AutoCloseable {
    /**
     * Opens a file, which is read into memory and checked before the runtime sees it.
     *
     * @throws FileException if it is missing, damaged, or not such a file.
     */
    public constructor(file: File, opener: Backend.Opener) :
        this(AnytimeFile.bytes(file), file.path, opener, ::milliseconds)

    /**
     * Opens the content of a file, for example an asset that was mapped into memory.
     *
     * A direct buffer from its first byte on is used as it is, and must not change.
     *
     * @throws FileException if it is damaged, or not such a file.
     */
    public constructor(content: ByteBuffer, opener: Backend.Opener) :
        this(AnytimeFile.direct(content), "a ByteBuffer", opener, ::milliseconds)

    /** What the file says of itself. */
    public val info: Info

    /** The exit that each stage of the file answers for. */
    public val exits: List<Int>

    /** The network's inputs. */
    public val inputs: List<Input>

    /** The shape of an image: of the network's first input. */
    public val inputShape: List<Int> get() = inputs[0].shape

    /** Whether the file has a single call, see [predict]. */
    public val hasPredict: Boolean

    internal val bytes = content.limit()
    private val plain: Boolean
    private val own: Arguments
    private val temperatures: List<Double>
    private val networks: List<Network?>?
    private val lock = ReentrantLock()
    private val times: StageTimes

    @Volatile
    private var cancel = Any() // another object after each `cancel`
    private var current = 0L // number of the image under way

    @Volatile
    private var backend: Backend?

    init {
        val checked = AnytimeFile.check(content, name)
        info = checked.info
        plain = info.version < 3
        exits = info.exits
        temperatures = exits.map { info.temperatures[it] }
        networks = info.networks?.let { all -> exits.map { all[it] } }
        val signatures = checked.signatures.mapValues { (key, tensors) -> signature(key, tensors) }
        val stages = exits.indices.map { signatures.getValue("stage_$it") }
        inputs = info.inputs.ifEmpty {
            val tensors = stages.flatMap { it.inputs }
            val image = tensors.first { it.name == Signatures.OLD_INPUT }
            listOf(Input(image.name, image.shape.drop(1), image.dtype))
        }
        inputs.firstOrNull { it.dtype == "float16" }?.let {
            throw FileException(
                "`path` must be a file whose inputs are not of float16. Received: path=$name, " +
                    "input ${it.name}"
            )
        }
        own = Arguments(info, inputs)
        val predict = signatures["predict"]
        hasPredict = predict != null
        val opened = try {
            opener.open(CheckedFile(content, stages, predict))
        } catch (error: Exception) {
            throw unable(name, error)
        }
        backend = opened
        times = StageTimes(exits.size, clock)
        try {
            warmUp(opened)
        } catch (error: Exception) {
            close()
            throw unable(name, error)
        }
    }

    private fun unable(name: String, error: Exception) = FileException(
        "`path` must be a file whose stages the interpreter can run. Received: path=$name " +
            "(${error.message})",
        error,
    )

    /** Frees the runtime's memory. The model cannot be used any more. */
    override fun close() {
        lock.withLock {
            backend?.close()
            backend = null
        }
    }

    /**
     * Ends the image under way after the stage that is running, from any thread.
     *
     * [classify] then returns the best answer so far, with [StoppedBy.CANCELLED]. The first stage
     * always ends. Images that wait for another are cancelled too, and answer after their first
     * stage. Images given later are not.
     */
    public fun cancel() {
        cancel = Any()
    }

    /**
     * Returns the first answer that is good enough, or the best there is time for.
     *
     * The first stage always runs. A later stage is not begun if the time left is less than it has
     * lately taken here, which is learned from run to run.
     *
     * @param pixels of 8 bits, row by row, which are standardized as the file says; or, where the
     *   network takes uint8 or int8, its input.
     * @param deadlineMs milliseconds from now; what another thread's image takes counts.
     * @param thresholds one number per exit of the network, in the unit of the confidence, in place
     *   of the file's; the last is -inf, whatever is given. An exit that is not in the file must
     *   have +inf, or what the file has for it.
     * @param patience also stop when so many answers in a row name the same class; at least 2.
     * @throws IllegalArgumentException if an argument does not fit the file.
     * @throws IllegalStateException if the model was closed.
     */
    @JvmOverloads
    public fun classify(
        pixels: ByteArray,
        deadlineMs: Double? = null,
        thresholds: DoubleArray? = null,
        patience: Int? = null,
    ): Answer = classified(pixels, deadlineMs, thresholds, patience)

    /** As above, of floats, which are taken as they are. */
    @JvmOverloads
    public fun classify(
        image: FloatArray,
        deadlineMs: Double? = null,
        thresholds: DoubleArray? = null,
        patience: Int? = null,
    ): Answer = classified(image, deadlineMs, thresholds, patience)

    /** As above, of a picture of any size, which becomes pixels as the file says. */
    @JvmOverloads
    public fun classify(
        picture: Picture,
        deadlineMs: Double? = null,
        thresholds: DoubleArray? = null,
        patience: Int? = null,
    ): Answer = classified(picture, deadlineMs, thresholds, patience)

    /** As above, of a network with several inputs, or of integers: an array for each, by name. */
    @JvmOverloads
    public fun classify(
        inputs: Map<String, Any>,
        deadlineMs: Double? = null,
        thresholds: DoubleArray? = null,
        patience: Int? = null,
    ): Answer = classified(inputs, deadlineMs, thresholds, patience)

    private fun classified(
        image: Any, deadlineMs: Double?, thresholds: DoubleArray?, patience: Int?,
    ): Answer {
        val start = clock()
        val given = cancel
        open()
        val deadline = own.deadline(deadlineMs)
        val limits = own.limits(thresholds)
        val run = Run(
            info.confidence, limits, own.patience(patience), deadline,
            networks, info.agreement, plain,
        )
        val tensors = own.tensors(image)
        lock.withLock {
            val backend = begin(tensors)
            var stage = 0
            while (true) {
                val (by, cost) = stage(backend, stage, run, deadline, start, given)
                if (by != null) return answer(run, stage, by, start, cost)
                stage += 1
            }
        }
    }

    /**
     * Returns an answer after every stage, until the network or time ends.
     *
     * Stop reading when the answer is good enough: nothing further is computed. Once another image
     * is begun, this one cannot go on. It can be read once.
     *
     * @param image as one of the kinds that `classify` takes.
     * @throws IllegalStateException while it is read, if another image was begun, or the model
     *   closed, meanwhile.
     */
    @JvmOverloads
    public fun stream(image: Any, deadlineMs: Double? = null): Sequence<Answer> {
        val start = clock()
        val given = cancel
        open()
        val deadline = own.deadline(deadlineMs)
        val run = Run(info.confidence, null, null, deadline, networks, null, plain)
        val tensors = own.tensors(image).mapValues { own.copy(it.value) } // read later
        return sequence {
            var number = -1L
            for (stage in exits.indices) {
                val answer = lock.withLock {
                    val backend = if (stage == 0) begin(tensors) else goOn(number)
                    number = current
                    val (by, cost) = stage(backend, stage, run, deadline, start, given)
                    answer(run, stage, by, start, cost)
                }
                yield(answer)
                if (answer.stoppedBy != null) break
            }
        }.constrainOnce()
    }

    private fun goOn(number: Long): Backend {
        val backend = backend
        check(number == current && backend != null) {
            "An image must be finished before the next is begun, or the model closed"
        }
        return backend
    }

    /**
     * Returns the answer of the file's single call, where exits are taken inside it.
     *
     * There is no deadline. The file must be exported with `single_call=True`.
     *
     * @param image as one of the kinds that `classify` takes.
     */
    @JvmOverloads
    public fun predict(image: Any, thresholds: DoubleArray? = null): Answer {
        val start = clock()
        open()
        require(hasPredict) {
            "The file must be exported with `single_call=True`. Received: one without"
        }
        val limits = own.limits(thresholds)
        val tensors = HashMap(own.tensors(image))
        if (plain) tensors["x"] = tensors.remove(Signatures.OLD_INPUT)!!
        tensors["thresholds"] = FloatArray(limits.size) { limits[it].toFloat() }
        val output = lock.withLock {
            val backend = open()
            current += 1
            backend.predict(tensors)
        }
        val stage = exits.indexOf(output.exit)
        if (stage < 0) {
            throw FileException(
                "`path` must be a whole TFLite model. Received: one whose single call leaves at " +
                    "exit ${output.exit}, which the file does not have"
            )
        }
        val run = Run(info.confidence, limits, networks = networks, plain = plain)
        val last = stage == exits.size - 1
        val by = run.stoppedBy(stage, divided(output.logits, stage), 0.0, if (last) null else 0.0)
        // not confident, as the single call reckons: answers agreed
        val agreeing = info.patience != null || info.agreement != null
        val other = if (agreeing) StoppedBy.PATIENCE else StoppedBy.CONFIDENCE
        return answer(run, stage, by ?: other, start, output.cost)
    }

    /** Runs the stages and nothing else; returns the milliseconds until each one's end. */
    internal fun staged(image: Any): List<Double> {
        val tensors = own.tensors(image)
        lock.withLock {
            val start = clock()
            val backend = begin(tensors)
            return exits.indices.map {
                backend.run(it)
                clock() - start
            }
        }
    }

    private fun open(): Backend =
        checkNotNull(backend) { "The model must be open. Received: a model that was closed" }

    /** Begins an image; the lock is held. */
    private fun begin(tensors: Map<String, Any>): Backend {
        val backend = open()
        current += 1
        backend.start(tensors)
        return backend
    }

    /** Runs a stage and learns how long it takes; returns why to stop after it, and its cost. */
    private fun stage(
        backend: Backend, stage: Int, run: Run, deadline: Double, start: Double, given: Any,
    ): Pair<StoppedBy?, Float?> {
        val before = clock()
        val output = backend.run(stage)
        val logits = divided(output.logits, stage)
        val now = clock()
        times.learn(stage, now - before)
        val last = stage == exits.size - 1
        val nextMs = if (last) null else times.expectedMs[stage + 1]
        val by = run.stoppedBy(stage, logits, now - start, nextMs, cancel !== given)
        if (by == StoppedBy.DEADLINE && now - start < deadline) {
            // a slow spell must not keep later images out of this stage for good
            times.forgetSlowly(stage + 1)
        }
        return by to output.cost
    }

    private fun divided(logits: FloatArray, stage: Int): DoubleArray {
        require(logits.all { it.isFinite() }) {
            "The logits must be finite. Received: NaN or infinite ones, as the network computes " +
                "them of inputs that are too large for it"
        }
        return DoubleArray(logits.size) { logits[it] / temperatures[stage] }
    }

    private fun answer(run: Run, stage: Int, by: StoppedBy?, start: Double, cost: Float?): Answer {
        val probabilities = run.probabilities
        return Answer(
            FloatArray(probabilities.size) { probabilities[it].toFloat() },
            run.label,
            exits[stage],
            by,
            clock() - start,
            info.classNames?.get(run.label),
            cost?.toDouble() ?: info.macs?.get(stage),
        )
    }

    /** Runs every stage a few times: the first run is slow, and times are learned. */
    private fun warmUp(backend: Backend) {
        backend.start(inputs.associate { it.name to own.black(it) })
        times.measure(WARM_UP) { backend.run(it) }
    }

    private companion object {
        const val WARM_UP = 5 // runs of the network when a file is opened

        fun milliseconds(): Double = System.nanoTime() / 1e6

        fun signature(key: String, tensors: SignatureTensors) = Signature(
            key,
            tensors.inputs.map { (name, tensor) -> spec(name, tensor) },
            tensors.outputs.map { (name, tensor) -> spec(name, tensor) },
        )

        private val dtypes = Signatures.DTYPES.entries.associate { it.value to it.key }

        fun spec(name: String, tensor: Tensor): TensorSpec {
            val letter = if (tensor.letter in "qQ") 'c' else tensor.letter
            val shape = tensor.shape.orEmpty().map { it.toInt() }
            return TensorSpec(name, shape, dtypes.getValue(letter))
        }
    }
}
