package io.github.keras_adaptive.anytime

import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/**
 * Reads JSON whose size, nesting and digits are bounded.
 *
 * Objects become `Map`, lists `List`, integers `Long` or `BigInteger`, other numbers `Double`.
 */
internal class Json private constructor(private val text: String) {
    class Malformed(message: String) : Exception(message)

    private var at = 0
    private var depth = 0

    private fun document(): Any? {
        skip()
        val value = value()
        skip()
        if (at < text.length) wrong("Extra data")
        return value
    }

    private fun value(): Any? {
        if (at >= text.length) wrong("Expecting value")
        return when (val letter = text[at]) {
            '{' -> nested { objectAt() }
            '[' -> nested { listAt() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> if (letter == '-' || letter in '0'..'9') number() else wrong("Expecting value")
        }
    }

    private fun <T> nested(read: () -> T): T {
        depth += 1
        if (depth > DEEPEST) throw Malformed("nested more than $DEEPEST deep")
        at += 1
        skip()
        val found = read()
        at += 1
        depth -= 1
        return found
    }

    private fun objectAt(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        if (peek('}')) return found
        while (true) {
            if (!peek('"')) wrong("Expecting property name enclosed in double quotes")
            val key = string()
            skip()
            if (!peek(':')) wrong("Expecting ':' delimiter")
            at += 1
            skip()
            found[key] = value()
            skip()
            if (peek('}')) return found
            if (!peek(',')) wrong("Expecting ',' delimiter")
            at += 1
            skip()
        }
    }

    private fun listAt(): List<Any?> {
        val found = ArrayList<Any?>()
        if (peek(']')) return found
        while (true) {
            found.add(value())
            skip()
            if (peek(']')) return found
            if (!peek(',')) wrong("Expecting ',' delimiter")
            at += 1
            skip()
        }
    }

    private fun string(): String {
        val found = StringBuilder()
        at += 1
        while (true) {
            if (at >= text.length) wrong("Unterminated string")
            val letter = text[at++]
            when {
                letter == '"' -> return found.toString()
                letter == '\\' -> found.append(escaped())
                letter < ' ' -> wrong("Invalid control character")
                else -> found.append(letter)
            }
        }
    }

    private fun escaped(): Char {
        if (at >= text.length) wrong("Unterminated string")
        val letter = text[at++]
        if (letter == 'u') {
            if (at + 4 > text.length) wrong("Invalid \\uXXXX escape")
            val digits = text.substring(at, at + 4)
            if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) {
                wrong("Invalid \\uXXXX escape")
            }
            at += 4
            return digits.toInt(16).toChar()
        }
        val place = "\"\\/bfnrt".indexOf(letter)
        if (place < 0) wrong("Invalid \\escape")
        return "\"\\/\b\u000C\n\r\t"[place]
    }

    private fun number(): Any {
        val start = at
        if (peek('-')) at += 1
        if (peek('0')) at += 1 else digits()
        val whole = at
        if (peek('.') && digit(at + 1)) {
            at += 1
            digits()
        }
        if (peek('e') || peek('E')) {
            val sign = at + 1 < text.length && text[at + 1] in "+-"
            if (digit(at + if (sign) 2 else 1)) {
                at += if (sign) 2 else 1
                digits()
            }
        }
        val found = text.substring(start, at)
        if (at > whole) return found.toDouble()
        if (found.length > DIGITS) throw Malformed("an integer of ${found.length} digits")
        return found.toLongOrNull() ?: BigInteger(found)
    }

    private fun digits() {
        if (!digit(at)) wrong("Expecting value")
        while (digit(at)) at += 1
    }

    private fun digit(place: Int) = place < text.length && text[place] in '0'..'9'

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) wrong("Expecting value")
        at += word.length
        return value
    }

    private fun peek(letter: Char) = at < text.length && text[at] == letter

    private fun skip() {
        while (at < text.length && text[at] in " \t\n\r") at += 1
    }

    private fun wrong(what: String): Nothing = throw Malformed("$what: char $at")

    companion object {
        const val LARGEST = 1 shl 24 // bytes
        private const val DEEPEST = 100 // lists and objects within each other
        private const val DIGITS = 40 // of an integer

        /**
         * Returns what bytes say as JSON.
         *
         * @throws Malformed if they are no JSON.
         */
        fun read(content: ByteBuffer): Any? {
            if (content.remaining() > LARGEST) throw Malformed("more than $LARGEST bytes")
            return Json(text(content) ?: throw Malformed("it is not UTF-8")).document()
        }

        /** Returns bytes as text, or `null` if they are not UTF-8. */
        fun text(content: ByteBuffer): String? =
            try {
                val decoder = Charsets.UTF_8.newDecoder()
                decoder.onMalformedInput(CodingErrorAction.REPORT)
                decoder.onUnmappableCharacter(CodingErrorAction.REPORT)
                decoder.decode(content.duplicate()).toString()
            } catch (_: CharacterCodingException) {
                null
            }

        /** Returns maps, lists, texts, numbers and booleans as JSON. */
        fun text(value: Any?): String = when (value) {
            is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { (key, each) ->
                "${text(key.toString())}: ${text(each)}"
            }
            is List<*> -> value.joinToString(", ", "[", "]") { text(it) }
            is String -> value.map(::escape).joinToString("", "\"", "\"")
            else -> value.toString()
        }

        private fun escape(letter: Char): String = when {
            letter == '"' || letter == '\\' -> "\\$letter"
            letter < ' ' -> "\\u" + letter.code.toString(16).padStart(4, '0')
            else -> letter.toString()
        }

        /** Returns a value as an error shows it: as Python writes it, in one line, cut. */
        fun brief(value: Any?, most: Int = 200): String {
            val text = StringBuilder()
            write(value, text, most)
            return if (text.length <= most) "$text" else "${text.take(most - 3)}..."
        }

        private fun write(value: Any?, out: StringBuilder, most: Int) {
            if (out.length > most) return
            when (value) {
                null -> out.append("None")
                true -> out.append("True")
                false -> out.append("False")
                is String -> out.append(quoted(value.take(most)))
                is List<*> -> {
                    out.append('[')
                    value.take(most).forEachIndexed { i, each ->
                        if (i > 0) out.append(", ")
                        write(each, out, most)
                    }
                    out.append(']')
                }
                is Map<*, *> -> {
                    out.append('{')
                    value.entries.take(most).forEachIndexed { i, (key, each) ->
                        if (i > 0) out.append(", ")
                        write(key, out, most)
                        out.append(": ")
                        write(each, out, most)
                    }
                    out.append('}')
                }
                else -> out.append(value)
            }
        }

        private fun quoted(text: String): String {
            val quote = if ('\'' in text && '"' !in text) '"' else '\''
            val found = StringBuilder().append(quote)
            for (letter in text) {
                when {
                    letter == quote || letter == '\\' -> found.append('\\').append(letter)
                    letter == '\n' -> found.append("\\n")
                    letter < ' ' || letter == '\u007f' ->
                        found.append("\\x").append(letter.code.toString(16).padStart(2, '0'))
                    else -> found.append(letter)
                }
            }
            return found.append(quote).toString()
        }
    }
}
