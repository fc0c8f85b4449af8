package io.github.keras_adaptive.anytime

/** Gives made-up logits; `during` is called while a stage runs. */
class FakeBackend(
    private val logits: List<FloatArray>,
    private val during: (Int) -> Unit = {},
) : Backend, Backend.Opener {
    val ran = ArrayList<Int>()
    var started: Map<String, Any> = emptyMap()
    var closed = false

    override fun open(file: CheckedFile): Backend = this

    override fun start(inputs: Map<String, Any>) {
        check(!closed)
        started = inputs
    }

    override fun run(stage: Int): Output {
        check(!closed)
        ran.add(stage)
        during(stage)
        return Output(logits[stage])
    }

    override fun predict(inputs: Map<String, Any>): Output {
        started = inputs
        return Output(logits[1], 7f, 1)
    }

    override fun close() {
        closed = true
    }
}
