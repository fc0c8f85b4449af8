package io.github.keras_adaptive.anytime

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.io.encoding.Base64

/** tflite/testdata, which programs in every language are held to. */
object Testdata {
    val folder = File(System.getProperty("anytime.testdata"))

    fun file(name: String) = folder.resolve("files/$name")

    fun cases(name: String): List<Case> = cases(folder.resolve(name))

    fun cases(file: File): List<Case> = json(file).list("cases").map { Case(it as Map<*, *>) }

    fun json(name: String): Case = json(folder.resolve(name))

    private fun json(file: File) = Case(Json.read(ByteBuffer.wrap(file.readBytes())) as Map<*, *>)

    /** Does an edit of damage.json. */
    fun edited(content: ByteArray, case: Case): ByteArray {
        var found = content.copyOf()
        for (write in case.listOrNull("write").orEmpty().map { Case(it as Map<*, *>) }) {
            val bytes = Base64.decode(write.text("base64"))
            bytes.copyInto(found, write.int("at"))
        }
        case.intOrNull("cut")?.let { found = found.copyOf(it) }
        if (case.values["reseal"] == true) reseal(found)
        return found
    }

    private fun reseal(content: ByteArray) {
        val text = String(content, Charsets.ISO_8859_1)
        val at = text.indexOf("\"sha256\": \"") + "\"sha256\": \"".length
        content.fill('0'.code.toByte(), at, at + 64)
        val digest = MessageDigest.getInstance("SHA-256").digest(content)
        digest.joinToString("") { "%02x".format(it) }.toByteArray().copyInto(content, at)
    }
}

/** An object of JSON. */
class Case(val values: Map<*, *>) {
    fun text(key: String) = values[key] as String
    fun int(key: String) = (values[key] as Long).toInt()
    fun intOrNull(key: String) = (values[key] as Long?)?.toInt()
    fun double(key: String) = number(values[key])
    fun list(key: String) = values[key] as List<*>
    fun listOrNull(key: String) = values[key] as List<*>?
    fun doubles(key: String) = list(key).map(::number).toDoubleArray()
    fun at(key: String) = Case(values[key] as Map<*, *>)

    /** The numbers of an array, and its shape. */
    fun array(key: String) = Packed(at(key))

    companion object {
        fun number(value: Any?): Double = when (value) {
            "Infinity" -> Double.POSITIVE_INFINITY
            "-Infinity" -> Double.NEGATIVE_INFINITY
            else -> (value as Number).toDouble()
        }
    }
}

/** `{"shape", "dtype", "base64"}`. */
class Packed(packed: Case) {
    val shape = packed.list("shape").map { (it as Long).toInt() }
    val dtype = packed.text("dtype")
    private val bytes =
        ByteBuffer.wrap(Base64.decode(packed.text("base64"))).order(ByteOrder.LITTLE_ENDIAN)
    private val size = shape.drop(1).fold(1, Int::times)

    /** Returns the row of one image as the array that a model takes. */
    fun row(row: Int): Any = when (dtype) {
        "float32" -> FloatArray(size) { bytes.getFloat(4 * (row * size + it)) }
        "uint8", "int8" -> ByteArray(size) { bytes.get(row * size + it) }
        "int32" -> IntArray(size) { bytes.getInt(4 * (row * size + it)) }
        "int64" -> LongArray(size) { bytes.getLong(8 * (row * size + it)) }
        else -> error(dtype)
    }

    fun floats(row: Int) = row(row) as FloatArray
}
