package io.github.keras_adaptive.anytime.desktop

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Benchmark
import java.io.File

private fun property(name: String): String = System.getProperty(name)

/** The name of the processor, as far as it is known. */
private fun machine(): String {
    val file = File("/proc/cpuinfo")
    val lines = if (file.isFile) file.readLines() else emptyList()
    val named = lines.firstOrNull { it.startsWith("Model") || it.startsWith("model name") }
    return named?.substringAfter(":")?.trim() ?: property("os.arch")
}

/**
 * Times a file, in one thread, as often as each line of the input says; prints a line of JSON each,
 * a measurement as `anytime-tflite bench` writes it.
 *
 * So another program can measure in turn with it. A second argument is a baseline, see [Benchmark].
 */
public fun main(arguments: Array<String>) {
    val file = File(arguments[0])
    val about = mapOf(
        "file" to file.name,
        "machine" to machine(),
        "system" to listOf("os.name", "os.version", "java.vm.name", "java.version")
            .joinToString(" ", transform = ::property),
        "interpreter" to "LiteRT",
        "backend" to "compiled_model",
        "threads" to 1,
    )
    val opener = LiteRtBackend.opener(threads = 1)
    val baseline = arguments.getOrNull(1)?.let { AnytimeModel(File(it), opener) }
    AnytimeModel(file, opener).use { model ->
        val benchmark = Benchmark(model, about, baseline)
        for (line in generateSequence(::readlnOrNull)) println(benchmark.run(line.trim().toInt()))
    }
    baseline?.close()
}
