package io.github.keras_adaptive.anytime

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The structure of the file is damaged. */
internal class Damaged(message: String) : Exception(message)

internal const val TOO_MANY = "it has more parts than the exporter ever writes"

/** The bytes of a file, and how much work reading it may still cost. */
internal class FileBytes(content: ByteBuffer) {
    private val content: ByteBuffer = content.duplicate().order(ByteOrder.LITTLE_ENDIAN)
    val size: Long = content.limit().toLong()

    var left = WORK
        private set

    fun spend(work: Long) {
        left -= work
        if (left < 0) throw Damaged(TOO_MANY)
    }

    private fun at(position: Long, bytes: Int): Int {
        val inside = position >= 0 && position + bytes <= size
        if (!inside) throw Damaged("an offset points behind the file")
        return position.toInt()
    }

    fun byte(position: Long): Int = content.get(at(position, 1)).toInt()

    fun short(position: Long): Int = content.getShort(at(position, 2)).toInt() and 0xffff

    fun int(position: Long): Int = content.getInt(at(position, 4))

    fun unsigned(position: Long): Long = int(position).toLong() and 0xffffffffL

    fun long(position: Long): Long = content.getLong(at(position, 8))

    fun float(position: Long): Float = content.getFloat(at(position, 4))

    fun follow(position: Long): Long = position + unsigned(position)

    /** Returns a part of the file, which must be inside it. */
    fun part(start: Long, length: Long): ByteBuffer {
        val found = content.duplicate()
        found.limit((start + length).toInt())
        found.position(start.toInt())
        return found.slice().order(ByteOrder.LITTLE_ENDIAN)
    }

    private companion object {
        const val WORK = 200_000L // tables and, per 64, numbers that the check reads
    }
}

/** Where a list is in the file. */
internal class Place(val start: Long, val length: Long)

/** A flatbuffer table: a record whose fields may be absent. */
internal class Table(val file: FileBytes, private val position: Long) {
    private val fields: Long
    private val size: Int

    init {
        file.spend(1)
        fields = position - file.int(position)
        if (fields < 0) throw Damaged("an offset points before the file")
        size = file.short(fields)
        if (size < 4 || fields + size > file.size) throw Damaged("a table is cut")
    }

    /** Returns where a field is, or 0. */
    private fun at(field: Int): Long {
        if (6 + 2 * field > size) return 0
        val offset = file.short(fields + 4 + 2 * field)
        return if (offset == 0) 0 else position + offset
    }

    fun int(field: Int, default: Int = 0): Int =
        at(field).let { if (it != 0L) file.int(it) else default }

    fun unsigned(field: Int): Long = at(field).let { if (it != 0L) file.unsigned(it) else 0 }

    fun byte(field: Int): Int = at(field).let { if (it != 0L) file.byte(it) else 0 }

    fun long(field: Int): Long = at(field).let { if (it != 0L) file.long(it) else 0 }

    fun table(field: Int): Table? =
        at(field).let { if (it != 0L) Table(file, file.follow(it)) else null }

    /** Returns the place of a list of numbers of so many bytes; nowhere, if it is absent. */
    fun vector(field: Int, bytes: Int = 1): Place {
        val at = at(field)
        if (at == 0L) return Place(0, 0)
        val start = file.follow(at)
        val length = file.unsigned(start)
        if (start + 4 + bytes * length > file.size) throw Damaged("a list is longer than the file")
        return Place(start + 4, length)
    }

    fun text(field: Int): String {
        val place = vector(field)
        if (place.length > NAME) throw Damaged("a name is too long")
        val bytes = file.part(place.start, place.length)
        return Json.text(bytes) ?: throw Damaged("a name is no text")
    }

    private fun <T> numbers(field: Int, bytes: Int, read: (Long) -> T): List<T> {
        val place = vector(field, bytes)
        file.spend(place.length / 64)
        return List(place.length.toInt()) { read(place.start + bytes.toLong() * it) }
    }

    fun ints(field: Int): List<Long> = numbers(field, 4) { file.int(it).toLong() }

    fun floats(field: Int): List<Float> = numbers(field, 4) { file.float(it) }

    fun longs(field: Int): List<Long> = numbers(field, 8) { file.long(it) }

    /** Returns a list of at most so many tables. */
    fun tables(field: Int, most: Long = Long.MAX_VALUE): List<Table> {
        val place = vector(field, 4)
        if (place.length > minOf(most, file.left)) throw Damaged(TOO_MANY)
        return List(place.length.toInt()) { Table(file, file.follow(place.start + 4L * it)) }
    }

    /** Refuses lists that the exporter leaves out, if they have a length. */
    fun refuse(fields: List<Int>, what: String) {
        if (fields.any { vector(it).length != 0L }) {
            throw Damaged("$what is not written by the exporter")
        }
    }

    companion object {
        private const val NAME = 1000 // bytes of a signature's name, or of its inputs and outputs
        private const val METADATA = 100L

        /** Returns the table of the whole model. */
        fun root(content: ByteBuffer): Table {
            val file = FileBytes(content)
            return Table(file, file.follow(0))
        }

        /** Returns where the metadata of a name is, or `null`. */
        fun metadata(content: ByteBuffer, name: String): Place? {
            val model = root(content)
            for (entry in model.tables(6, METADATA)) {
                val found = entry.vector(0)
                if (found.length != name.length.toLong() || entry.textOrNull(0) != name) continue
                val buffers = model.tables(4)
                val number = entry.unsigned(1)
                within(listOf(number), buffers.size, "metadata")
                return buffers[number.toInt()].vector(0)
            }
            return null
        }
    }

    private fun textOrNull(field: Int): String? {
        val place = vector(field)
        return Json.text(file.part(place.start, place.length))
    }
}

internal fun within(numbers: Iterable<Long>, length: Int, what: String, least: Long = 0) {
    if (numbers.any { it < least || it >= length }) throw Damaged("$what is missing")
}
