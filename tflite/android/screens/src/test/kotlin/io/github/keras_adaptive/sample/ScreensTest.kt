package io.github.keras_adaptive.sample

import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Canvas
import android.net.Uri
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.SeekBar
import android.widget.TextView
import io.github.keras_adaptive.anytime.Case
import io.github.keras_adaptive.anytime.Testdata
import io.github.keras_adaptive.anytime.desktop.LiteRtBackend
import java.io.File
import java.util.concurrent.TimeUnit
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The activity, with the shipped network in it, on a JVM. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = "w360dp-h740dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ScreensTest {
    @Before
    fun runtime() {
        Models.opener = LiteRtBackend.opener(threads = 1)
    }

    private fun views(view: View): List<View> =
        listOf(view) + ((view as? ViewGroup)?.let { group ->
            (0 until group.childCount).flatMap { views(group.getChildAt(it)) }
        } ?: emptyList())

    private fun texts(activity: MainActivity) =
        views(activity.window.decorView).filterIsInstance<TextView>().map { it.text.toString() }

    private fun waitFor(activity: MainActivity, what: (String) -> Boolean) {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(90)
        while (texts(activity).none(what)) {
            assertTrue("${texts(activity)}", System.nanoTime() < end)
            Thread.sleep(20)
            shadowOf(Looper.getMainLooper()).idle()
        }
    }

    private fun draw(activity: MainActivity, name: String): Bitmap {
        val view = activity.window.decorView
        view.measure(
            View.MeasureSpec.makeMeasureSpec(720, View.MeasureSpec.EXACTLY),
            View.MeasureSpec.makeMeasureSpec(1480, View.MeasureSpec.EXACTLY),
        )
        view.layout(0, 0, 720, 1480)
        val bitmap = Bitmap.createBitmap(720, 1480, Bitmap.Config.ARGB_8888)
        view.draw(Canvas(bitmap))
        File("target/$name.png").outputStream().use {
            bitmap.compress(Bitmap.CompressFormat.PNG, 100, it)
        }
        return bitmap
    }

    /** Gives the activity a picture to read: a made-up one of 200 x 100. */
    private fun choosePicture(activity: MainActivity) {
        val argb = IntArray(20000) { i ->
            val (row, column) = i / 200 to i % 200
            val sky = row < 60
            (255 shl 24) or (if (sky) 0x70A0E0 else 0x306030) + (column / 8)
        }
        val bitmap = Bitmap.createBitmap(argb, 200, 100, Bitmap.Config.ARGB_8888)
        val bytes = java.io.ByteArrayOutputStream()
        bitmap.compress(Bitmap.CompressFormat.PNG, 100, bytes)
        choose(activity, "Picture", bytes.toByteArray())
    }

    private fun choose(activity: MainActivity, button: String, content: ByteArray) {
        val uri = Uri.parse("content://$button/1")
        shadowOf(activity.contentResolver).registerInputStream(uri, content.inputStream())
        press(activity, button)
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        val chosen = Intent().setData(uri)
        shadowOf(activity).receiveResult(asked, android.app.Activity.RESULT_OK, chosen)
    }

    private fun press(activity: MainActivity, button: String) {
        val all = views(activity.window.decorView)
        all.first { (it as? TextView)?.text == button }.performClick()
    }

    private fun screen(name: String): Bitmap {
        val controller = Robolectric.buildActivity(MainActivity::class.java).setup()
        val activity = controller.get()
        waitFor(activity) { "5 stages" in it }
        choosePicture(activity)
        waitFor(activity) { " ms, exit " in it }
        assertTrue(texts(activity).any { " ms, exit 4 of 4 (end)" in it })
        val bitmap = draw(activity, name)
        val sliders = views(activity.window.decorView).filterIsInstance<SeekBar>()
        val said = listOf("Deadline: none", "Confidence: as the file says")
        assertEquals(said, sliders.map { it.contentDescription })
        // everything is as confident as this, also after the phone was turned
        sliders[1].progress = 1
        controller.recreate()
        waitFor(controller.get()) { " ms, exit 0 of 4 (confidence)" in it }
        controller.pause().stop().destroy()
        return bitmap
    }

    /** A JPEG of EXIF's orientation: red above, blue below on the left, green on the right. */
    private fun photo(orientation: Int): ByteArray {
        val argb = IntArray(128 * 64) { i ->
            val (row, column) = i / 128 to i % 128
            (0xFF shl 24) or when {
                row < 32 -> 0xF00000
                column < 64 -> 0x0000F0
                else -> 0x00F000
            }
        }
        val jpeg = java.io.ByteArrayOutputStream()
        Bitmap.createBitmap(argb, 128, 64, Bitmap.Config.ARGB_8888)
            .compress(Bitmap.CompressFormat.JPEG, 95, jpeg)
        val tiff = byteArrayOf(
            77, 77, 0, 42, 0, 0, 0, 8, 0, 1, 1, 18, 0, 3, 0, 0, 0, 1, 0, orientation.toByte(),
            0, 0, 0, 0, 0, 0,
        )
        val exif = "Exif\u0000\u0000".toByteArray() + tiff
        val start = byteArrayOf(-1, -40, -1, -31, 0, (exif.size + 2).toByte()) + exif
        return start + jpeg.toByteArray().drop(2)
    }

    @Test
    fun `pictures are upright, as Python reads them`() {
        val context = RuntimeEnvironment.getApplication()
        for (orientation in 1..8) {
            val uri = Uri.parse("content://pictures/$orientation")
            shadowOf(context.contentResolver)
                .registerInputStream(uri, photo(orientation).inputStream())
            val picture = Models.picture(context, uri)
            val (height, width) = picture.height to picture.width
            assertEquals(if (orientation < 5) 64 to 128 else 128 to 64, height to width)
            // the channel that is large in each corner, from the top left on
            val corners = listOf(8 to 8, 8 to width - 8, height - 8 to 8, height - 8 to width - 8)
            val found = corners.map { (row, column) ->
                val at = 3 * (row * width + column)
                "RGB"[(0..2).maxByOrNull { picture.pixels[at + it].toInt() and 255 }!!]
            }.joinToString("")
            val wanted = listOf("RRBG", "RRGB", "GBRR", "BGRR", "RBRG", "BRGR", "GRBR", "RGRB")
            assertEquals("orientation $orientation", wanted[orientation - 1], found)
        }
    }

    @Test
    fun `a threshold in percent is for confidences that are shares`() {
        val controller = Robolectric.buildActivity(MainActivity::class.java).setup()
        val activity = controller.get()
        waitFor(activity) { "5 stages" in it }
        fun slider() = views(controller.get().window.decorView).filterIsInstance<SeekBar>()[1]
        assertTrue(slider().isEnabled)
        slider().progress = 90
        choose(activity, "Model", Testdata.file("int8.tflite").readBytes()) // by its entropy
        waitFor(activity) { "3 stages" in it }
        assertEquals(false to 0, slider().let { it.isEnabled to it.progress })
        controller.recreate()
        assertEquals(false to 0, slider().let { it.isEnabled to it.progress })
        controller.pause().stop().destroy()
    }

    @Test
    fun `in light`() {
        assertTrue(screen("light").getPixel(2, 700) and 255 > 200)
    }

    @Test
    fun `what was measured is shared as Python reads it`() {
        val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        waitFor(activity) { "5 stages" in it }
        press(activity, "Measure")
        waitFor(activity) { it.startsWith("Measured 200 times") }
        draw(activity, "measured")
        val chooser = shadowOf(activity).nextStartedActivity
        val shared = chooser.getParcelableExtra<Intent>(Intent.EXTRA_INTENT)
        assertEquals("application/json", shared.type)
        val file = File("target/measurement.json").absoluteFile
        file.writeText(shared.getStringExtra(Intent.EXTRA_TEXT))
        val found = Testdata.json(file.path)
        val keys = Testdata.json("measurement.json").values.keys - "baseline"
        assertEquals(keys, found.values.keys - "baseline")
        assertEquals(Models.shipped(activity).use { it.info.sha256 }, found.text("sha256"))
        assertEquals("Android 14 (API 34)", found.text("system"))
        val rows = found.list("stages").map { Case(it as Map<*, *>) }
        assertEquals(listOf(0, 1, 2, 3, 4), rows.map { it.int("exit") })
        for (row in rows) for (way in listOf("alone", "until_here", "staged", "classify")) {
            assertTrue(row.at("${way}_ms").double("p50") > 0)
        }
    }

    @Test
    fun `in the dark`() {
        RuntimeEnvironment.setQualifiers("+night")
        assertTrue(screen("dark").getPixel(2, 700) and 255 < 80)
    }
}
