package io.github.keras_adaptive.sample

import android.Manifest
import android.app.Activity
import android.content.Intent
import android.content.pm.PackageManager
import android.content.res.Configuration
import android.os.Build
import android.os.Bundle
import android.view.Gravity
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.LinearLayout.LayoutParams
import android.widget.ScrollView
import android.widget.SeekBar
import android.widget.TextView
import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Answer
import io.github.keras_adaptive.anytime.Benchmark
import io.github.keras_adaptive.anytime.Picture
import java.io.IOException
import java.util.Locale
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicBoolean

/** Shows where a picture leaves the network, what it is, and how long that took. */
class MainActivity : Activity() {
    /** What outlives a rotation. */
    private class Kept(val worker: ExecutorService, var model: AnytimeModel?, var picture: Picture?)

    private lateinit var kept: Kept
    private lateinit var preview: ImageView
    private lateinit var label: TextView
    private lateinit var detail: TextView
    private lateinit var stages: StagesView
    private lateinit var deadline: SeekBar
    private lateinit var threshold: SeekBar
    private var camera: Camera? = null
    private val busy = AtomicBoolean()

    @Volatile
    private var deadlineMs: Double? = null

    @Volatile
    private var confidence: Double? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(content())
        deadline.progress = state?.getInt("deadline") ?: deadline.max
        threshold.progress = state?.getInt("threshold") ?: 0
        val before = lastNonConfigurationInstance as Kept?
        kept = before ?: Kept(Executors.newSingleThreadExecutor(), null, null)
        if (before == null) open { Models.shipped(this) } else classify()
        kept.model?.let(::allow)
    }

    @Deprecated("the way of Activity itself, which needs no library")
    override fun onRetainNonConfigurationInstance(): Any = kept

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putInt("deadline", deadline.progress)
        state.putInt("threshold", threshold.progress)
    }

    override fun onPause() {
        super.onPause()
        stopCamera()
    }

    override fun onDestroy() {
        super.onDestroy()
        if (!isChangingConfigurations) {
            kept.worker.execute { kept.model?.close() }
            kept.worker.shutdown()
        }
    }

    // ---- what is seen

    private fun content(): View {
        val night = resources.configuration.uiMode and Configuration.UI_MODE_NIGHT_MASK
        val margin = dp(16)
        preview = ImageView(this).apply {
            scaleType = ImageView.ScaleType.FIT_CENTER
            contentDescription = "The picture"
        }
        label = text(24f).apply { accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE }
        detail = text(14f)
        stages = StagesView(this, night == Configuration.UI_MODE_NIGHT_YES)
        val column = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            setPadding(margin, margin, margin, margin)
            addView(preview, LayoutParams(LayoutParams.MATCH_PARENT, dp(180)))
            addView(label)
            addView(detail)
            addView(stages, spaced())
        }
        deadline = slider(column, DEADLINES) {
            deadlineMs = if (it == DEADLINES) null else it / 4.0
            if (it == DEADLINES) "Deadline: none" else "Deadline: ${it / 4.0} ms"
        }
        threshold = slider(column, 100) {
            confidence = if (it == 0) null else it / 100.0
            if (it == 0) "Confidence: as the file says" else "Confidence: at least $it %"
        }
        for (row in listOf(
            listOf("Picture" to { choose("image/*", PICTURE) }, "Camera" to ::toggleCamera),
            listOf("Model" to { choose("*/*", MODEL) }, "Measure" to ::measure),
        )) {
            val line = LinearLayout(this).apply { gravity = Gravity.CENTER }
            for ((name, act) in row) {
                val button = Button(this).apply {
                    text = name
                    setOnClickListener { act() }
                }
                line.addView(button, LayoutParams(0, dp(48), 1f))
            }
            column.addView(line, spaced())
        }
        return ScrollView(this).apply { addView(column) }
    }

    private fun spaced() =
        LayoutParams(LayoutParams.MATCH_PARENT, LayoutParams.WRAP_CONTENT).apply {
            topMargin = dp(12)
        }

    private fun dp(size: Int) = (size * resources.displayMetrics.density).toInt()

    private fun text(size: Float) = TextView(this).apply { textSize = size }

    /** Adds a slider under its name, which `changed` returns. */
    private fun slider(column: LinearLayout, most: Int, changed: (Int) -> String): SeekBar {
        val name = text(14f)
        val slider = SeekBar(this).apply {
            max = most
            setOnSeekBarChangeListener(object : SeekBar.OnSeekBarChangeListener {
                override fun onProgressChanged(bar: SeekBar, progress: Int, byUser: Boolean) {
                    name.text = changed(progress)
                    contentDescription = name.text
                    if (byUser) classify()
                }

                override fun onStartTrackingTouch(bar: SeekBar) = Unit

                override fun onStopTrackingTouch(bar: SeekBar) = Unit
            })
        }
        name.text = changed(0)
        slider.contentDescription = name.text
        column.addView(name, spaced())
        column.addView(slider, LayoutParams(LayoutParams.MATCH_PARENT, dp(48)))
        return slider
    }

    // ---- what is done, in the worker's thread

    private fun open(load: () -> AnytimeModel) = work {
        val model = load()
        kept.model?.close()
        kept.model = model
        val inputs = model.inputs.joinToString { "${it.name} ${it.shape}" }
        runOnUiThread {
            label.text = title
            detail.text = "${model.info.json["model"]}: ${model.exits.size} stages, $inputs"
            stages.show(model, null)
            allow(model)
        }
        kept.picture?.let { classified(model, it) }
    }

    /** Lets a threshold be chosen where it is a share: entropies and logits are none. */
    private fun allow(model: AnytimeModel) {
        threshold.isEnabled = model.info.confidence in SHARES
        if (!threshold.isEnabled) threshold.progress = 0
    }

    private fun show(load: () -> Picture) = work {
        kept.picture = load()
        kept.model?.let { classified(it, kept.picture!!) }
    }

    private fun classify() = work {
        val model = kept.model ?: return@work
        kept.picture?.let { classified(model, it) }
    }

    private fun classified(model: AnytimeModel, picture: Picture) {
        val answer = model.classify(picture, deadlineMs, thresholds(model))
        val pixels = model.info.pixels!!.let {
            Models.bitmap(Picture(it.resize(picture), it.height, it.width, it.channels))
        }
        runOnUiThread {
            preview.setImageBitmap(pixels)
            label.text = named(answer)
            val last = model.info.thresholds.size - 1
            detail.text = String.format(
                Locale.ROOT, "%.2f ms, exit %d of %d (%s)",
                answer.elapsedMs, answer.exit, last, answer.stoppedBy?.text,
            )
            stages.show(model, answer)
        }
    }

    private fun named(answer: Answer): String {
        val name = answer.className ?: "class ${answer.label}"
        val percent = 100 * answer.probabilities[answer.label]
        return String.format(Locale.ROOT, "%s, %.1f %%", name, percent)
    }

    /** The same threshold at every exit that is in the file. */
    private fun thresholds(model: AnytimeModel): DoubleArray? {
        val chosen = confidence?.takeIf { model.info.confidence in SHARES } ?: return null
        return DoubleArray(model.info.thresholds.size) {
            if (it in model.exits) chosen else Double.POSITIVE_INFINITY
        }
    }

    private fun measure() = work {
        val model = kept.model ?: return@work
        runOnUiThread { detail.text = "Measuring" }
        val about = mapOf(
            "machine" to "${Build.MANUFACTURER} ${Build.MODEL}",
            "system" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
            "interpreter" to Models.INTERPRETER,
            "backend" to "interpreter",
            "threads" to Models.THREADS,
        )
        val result = Models.baseline(this).let { cut ->
            Benchmark(model, about, cut).run(RUNS).also { cut?.close() }
        }
        runOnUiThread {
            detail.text = "Measured $RUNS times, shared as JSON"
            val share = Intent(Intent.ACTION_SEND).setType("application/json")
            startActivity(Intent.createChooser(share.putExtra(Intent.EXTRA_TEXT, result), null))
        }
    }

    private fun work(task: () -> Unit) {
        kept.worker.execute {
            try {
                task()
            } catch (error: IOException) {
                failed(error.message)
            } catch (error: IllegalArgumentException) {
                failed(error.message)
            }
        }
    }

    private fun failed(why: String?) = runOnUiThread { detail.text = why }

    // ---- where pictures and models come from

    private fun choose(kind: String, request: Int) {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE)
        startActivityForResult(intent.setType(kind), request)
    }

    override fun onActivityResult(request: Int, result: Int, intent: Intent?) {
        val uri = intent?.data ?: return
        if (request == PICTURE) show { Models.picture(this, uri) }
        if (request == MODEL) open { Models.chosen(this, uri) }
    }

    private fun toggleCamera() {
        if (camera != null) return stopCamera()
        if (checkSelfPermission(Manifest.permission.CAMERA) != PackageManager.PERMISSION_GRANTED) {
            return requestPermissions(arrayOf(Manifest.permission.CAMERA), CAMERA)
        }
        camera = Camera(this, ::frame, ::failed).apply { start() }
    }

    private fun stopCamera() {
        camera?.stop()
        camera = null
    }

    /** Classifies a frame, unless the one before is still under way. */
    private fun frame(picture: Picture) {
        if (kept.worker.isShutdown || !busy.compareAndSet(false, true)) return
        show { picture }
        kept.worker.execute { busy.set(false) }
    }

    override fun onRequestPermissionsResult(request: Int, names: Array<String>, results: IntArray) {
        if (results.firstOrNull() == PackageManager.PERMISSION_GRANTED) toggleCamera()
        else failed("The camera is not allowed; pictures can be chosen")
    }

    private companion object {
        const val DEADLINES = 80 // quarters of a millisecond; at the end there is none
        const val RUNS = 200 // of a measurement
        val SHARES = setOf("max_prob", "prob_margin", "learned") // confidences from 0 to 1
        const val PICTURE = 1
        const val MODEL = 2
        const val CAMERA = 3
    }
}
