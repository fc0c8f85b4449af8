package io.github.keras_adaptive.sample

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Backend
import io.github.keras_adaptive.anytime.Picture
import io.github.keras_adaptive.anytime.android.InterpreterBackend
import java.io.FileInputStream
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel

/** Opens models and pictures: from the app, or from a file that the user has chosen. */
object Models {
    /** What runs the stages; tests put another in its place. */
    @Volatile
    var opener: Backend.Opener = InterpreterBackend.opener(threads = THREADS)

    const val INTERPRETER = "tensorflow-lite 2.16.1"
    const val THREADS = 1
    private const val ASSET = "model.tflite"
    private const val BASELINE = "baseline.tflite"
    private const val MOST = 1 shl 28 // bytes of a chosen file
    private val MIRRORED = setOf(2, 4, 5, 7) // orientations
    private const val SIDE = 1024 // pixels of a side to which pictures are read

    /** Opens the model of this app, which is mapped into memory: it is stored as it is. */
    fun shipped(context: Context): AnytimeModel = asset(context, ASSET)

    /** Opens what is measured in turn with the model, if the app has it. */
    fun baseline(context: Context): AnytimeModel? =
        if (BASELINE in context.assets.list("").orEmpty()) asset(context, BASELINE) else null

    private fun asset(context: Context, name: String): AnytimeModel {
        val content = context.assets.openFd(name).use { file ->
            FileInputStream(file.fileDescriptor).channel.use {
                it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.length)
            }
        }
        return AnytimeModel(content, opener)
    }

    /** Opens a chosen file, which is checked before the interpreter sees it. */
    fun chosen(context: Context, uri: Uri): AnytimeModel =
        AnytimeModel(ByteBuffer.wrap(bytes(context, uri)), opener)

    /** Reads a chosen picture, upright: cameras write how they were held beside the pixels. */
    fun picture(context: Context, uri: Uri): Picture {
        val content = bytes(context, uri)
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(content, 0, content.size, size)
        val options = BitmapFactory.Options().apply {
            inSampleSize = maxOf(1, minOf(size.outWidth, size.outHeight) / SIDE)
        }
        val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options)
            ?: throw IOException("The file must be a picture")
        val (width, height) = bitmap.width to bitmap.height
        return picture(Bitmap.createBitmap(bitmap, 0, 0, width, height, upright(content), false))
    }

    private fun upright(content: ByteArray): Matrix {
        val orientation = try {
            ExifInterface(content.inputStream()).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1)
        } catch (_: IOException) {
            1
        }
        val turned = intArrayOf(0, 0, 0, 180, 180, 90, 90, 270, 270).getOrElse(orientation) { 0 }
        return Matrix().apply {
            postRotate(turned.toFloat())
            if (orientation in MIRRORED) postScale(-1f, 1f)
        }
    }

    fun picture(bitmap: Bitmap): Picture {
        val argb = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Picture.fromArgb(argb, bitmap.height, bitmap.width)
    }

    fun bitmap(picture: Picture): Bitmap {
        val argb = IntArray(picture.height * picture.width) { i ->
            fun level(c: Int): Int {
                val channel = minOf(c, picture.channels - 1)
                return picture.pixels[picture.channels * i + channel].toInt() and 255
            }
            255 shl 24 or (level(0) shl 16) or (level(1) shl 8) or level(2)
        }
        return Bitmap.createBitmap(argb, picture.width, picture.height, Bitmap.Config.ARGB_8888)
    }

    private fun bytes(context: Context, uri: Uri): ByteArray {
        val stream = context.contentResolver.openInputStream(uri) ?: throw IOException("no file")
        return stream.use {
            val found = java.io.ByteArrayOutputStream()
            val part = ByteArray(1 shl 16)
            while (true) {
                val read = it.read(part)
                if (read < 0) break
                found.write(part, 0, read)
                if (found.size() > MOST) throw IOException("The file must be at most $MOST bytes")
            }
            found.toByteArray()
        }
    }
}
