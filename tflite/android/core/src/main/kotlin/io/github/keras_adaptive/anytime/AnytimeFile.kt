package io.github.keras_adaptive.anytime

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** Reads files and checks them, before any native code sees a byte. */
public object AnytimeFile {
    private const val FORMAT = "keras_adaptive.tflite"
    private val VERSIONS = 2..3
    private const val METADATA = "keras_adaptive"
    private const val DIGEST = "\"sha256\": \""

    /**
     * Checks that a file is complete and returns its metadata; needs no runtime.
     *
     * @throws FileException if it is missing, cut, changed, of another kind, or of a version that
     *   is not supported.
     */
    @JvmStatic
    public fun readInfo(file: File): Info = check(bytes(file), file.path).info

    /** As above, of the content of a file. */
    @JvmStatic
    @JvmOverloads
    public fun readInfo(content: ByteBuffer, name: String = "a ByteBuffer"): Info =
        check(content, name).info

    internal class Checked(val info: Info, val signatures: Map<String, SignatureTensors>)

    /**
     * Returns the content of a file, in memory that a runtime can read.
     *
     * It is read, not mapped: what is checked is then what runs, whoever writes to the file.
     */
    internal fun bytes(file: File): ByteBuffer {
        if (!file.isFile) throw FileException("`path` must be a file. Received: path=$file")
        try {
            return file.inputStream().use { bytes(it, file.length(), file.path) }
        } catch (error: IOException) {
            val words = "`path` must be a file that can be read. Received: path=$file"
            throw FileException(words, error)
        }
    }

    private fun bytes(stream: InputStream, length: Long, name: String): ByteBuffer {
        if (length > Int.MAX_VALUE) {
            throw FileException(
                "`path` must be a file of at most ${Int.MAX_VALUE} bytes. Received: path=$name"
            )
        }
        val found = ByteBuffer.allocateDirect(length.toInt()).order(ByteOrder.nativeOrder())
        val part = ByteArray(minOf(length.toInt(), 1 shl 16))
        while (found.hasRemaining()) {
            val read = stream.read(part, 0, minOf(part.size, found.remaining()))
            if (read < 0) break
            found.put(part, 0, read)
        }
        found.flip()
        return found
    }

    /** Returns the content of a buffer, in memory that a runtime can read. */
    internal fun direct(content: ByteBuffer): ByteBuffer {
        val whole = content.duplicate()
        if (whole.isDirect && whole.position() == 0 && whole.limit() == whole.capacity()) {
            return whole.order(ByteOrder.nativeOrder())
        }
        val found = ByteBuffer.allocateDirect(whole.remaining()).order(ByteOrder.nativeOrder())
        found.put(whole)
        found.flip()
        return found
    }

    /** Returns the metadata and the signatures of a file that is complete. */
    internal fun check(given: ByteBuffer, name: String): Checked {
        val content = given.slice().order(ByteOrder.LITTLE_ENDIAN)
        val magic = ByteArray(4)
        if (content.limit() >= 8) for (i in 0 until 4) magic[i] = content.get(4 + i)
        if (!magic.contentEquals("TFL3".toByteArray())) {
            throw FileException("`path` must be a TFLite model. Received: path=$name")
        }
        val place = try {
            Table.metadata(content, METADATA)
        } catch (error: Damaged) {
            throw notWhole(name, error.message)
        }
        if (place == null) {
            throw FileException(
                "`path` must be a file of `keras_adaptive.export_tflite`. Received: path=$name, " +
                    "which is another TFLite model"
            )
        }
        val info = parse(content, place, name)
        if (digest(content, place) != info.sha256) {
            throw FileException(
                "`path` must be unchanged since it was exported, by its SHA-256. Received: " +
                    "path=$name, which is damaged or was changed"
            )
        }
        val signatures = try {
            Structure.check(content)
        } catch (error: Damaged) {
            throw notWhole(name, error.message)
        }
        Signatures.unlike(info, signatures)?.let { throw notWhole(name, it) }
        return Checked(info, signatures)
    }

    private fun notWhole(name: String, why: String?) =
        FileException("`path` must be a whole TFLite model. Received: path=$name ($why)")

    private fun parse(content: ByteBuffer, place: Place, name: String): Info {
        val json = try {
            Json.read(FileBytes(content).part(place.start, place.length))
        } catch (error: Json.Malformed) {
            throw FileException(
                "`path` must be a file whose info is JSON. Received: path=$name (${error.message})"
            )
        }
        val received = "Received: path=$name"
        if (json !is Map<*, *> || json["format"] != FORMAT) {
            throw FileException(
                "`path` must be a file whose info says \"format\": \"$FORMAT\". $received"
            )
        }
        @Suppress("UNCHECKED_CAST")
        val info = json as Map<String, Any?>
        val version = InfoReader.version(info)
        if (version == null || version !in VERSIONS) {
            val older = version != null && version < VERSIONS.first
            val advice = if (older) "export it again" else "update anytime_tflite"
            throw FileException(
                "`path` must be of version ${VERSIONS.joinToString(" or ")}: $advice. " +
                    "$received of version ${Json.brief(info["version"])}"
            )
        }
        InfoReader.wrong(info)?.let {
            throw FileException("`path` must be a file whose info is complete. $received with $it")
        }
        return InfoReader.info(info)
    }

    /** Returns the digest of a file whose own 64 digits are zeros, or `null` if it has none. */
    private fun digest(content: ByteBuffer, place: Place): String? {
        val key = DIGEST.toByteArray()
        val end = (place.start + place.length).toInt()
        val first = (place.start.toInt()..end - key.size).firstOrNull { at ->
            key.indices.all { content.get(at + it) == key[it] }
        } ?: return null
        val at = first + key.size
        val sha256 = MessageDigest.getInstance("SHA-256")
        val file = FileBytes(content)
        sha256.update(file.part(0, at.toLong()))
        sha256.update("0".repeat(64).toByteArray())
        val rest = minOf(at + 64, content.limit()).toLong()
        sha256.update(file.part(rest, content.limit() - rest))
        return sha256.digest().joinToString("") { "%02x".format(it) }
    }
}
