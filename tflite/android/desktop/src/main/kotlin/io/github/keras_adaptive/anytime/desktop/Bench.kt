package io.github.keras_adaptive.anytime.desktop

import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Benchmark
import java.io.File

/**
 * Times a file, in one thread, as often as each line of the input says; prints a line of JSON each.
 *
 * So another program can measure in turn with it.
 */
public fun main(arguments: Array<String>) {
    val file = File(arguments.single())
    val about = mapOf(
        "file" to file.name,
        "bytes" to file.length(),
        "machine" to System.getProperty("os.arch"),
        "system" to "Java ${System.getProperty("java.version")}",
        "interpreter" to "LiteRT",
        "threads" to 1,
    )
    AnytimeModel(file, LiteRtBackend.opener(threads = 1)).use { model ->
        val benchmark = Benchmark(model, about)
        for (line in generateSequence(::readlnOrNull)) println(benchmark.run(line.trim().toInt()))
    }
}
