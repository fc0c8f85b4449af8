package io.github.keras_adaptive.sample

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.view.View
import io.github.keras_adaptive.anytime.AnytimeModel
import io.github.keras_adaptive.anytime.Answer

/** The stages as bars, as long as what they cost; those that ran are filled. */
class StagesView(context: Context, private val dark: Boolean) : View(context) {
    private val density = resources.displayMetrics.density
    private val paint = Paint(Paint.ANTI_ALIAS_FLAG)
    private var shares = emptyList<Double>() // of the whole cost, up to each stage
    private var exits = emptyList<Int>()
    private var ran = -1

    fun show(model: AnytimeModel, answer: Answer?) {
        exits = model.exits
        val macs = model.info.macs ?: List(exits.size) { it + 1.0 }
        shares = macs.map { it / macs.last() }
        ran = if (answer == null) -1 else exits.indexOf(answer.exit)
        contentDescription = "${ran + 1} of ${exits.size} stages were computed" +
            if (ran < 0) "" else ", ${percent(shares[ran])} of the whole cost"
        requestLayout()
        invalidate()
    }

    private fun percent(share: Double) = "${Math.round(100 * share)} %"

    override fun onMeasure(widthSpec: Int, heightSpec: Int) {
        val height = (exits.size * ROW * density).toInt()
        setMeasuredDimension(MeasureSpec.getSize(widthSpec), maxOf(height, suggestedMinimumHeight))
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        paint.textSize = TEXT * density
        val label = paint.measureText("exit 10 ")
        val room = width - label - paint.measureText(" 100 % ")
        for ((i, share) in shares.withIndex()) {
            val top = i * ROW * density
            val bottom = top + (ROW - 8) * density
            val base = bottom - (ROW - 8 - TEXT) / 2 * density - 2 * density
            paint.style = Paint.Style.FILL
            paint.color = if (dark) LIGHT_TEXT else DARK_TEXT
            canvas.drawText("exit ${exits[i]}", 0f, base, paint)
            paint.color = when {
                i < ran -> RAN
                i == ran -> LEFT
                else -> if (dark) DARK_REST else LIGHT_REST
            }
            val end = (label + room * share).toFloat()
            canvas.drawRoundRect(label, top, end, bottom, 4 * density, 4 * density, paint)
            paint.color = if (dark) LIGHT_TEXT else DARK_TEXT
            canvas.drawText(" ${percent(share)}", end, base, paint)
        }
    }

    private companion object {
        const val ROW = 28 // dp
        const val TEXT = 13f
        const val RAN = 0xFF90CAF9.toInt()
        const val LEFT = 0xFF1E88E5.toInt() // where the image left
        const val LIGHT_REST = 0xFFE0E0E0.toInt()
        const val DARK_REST = 0xFF424242.toInt()
        const val LIGHT_TEXT = 0xFFEEEEEE.toInt()
        const val DARK_TEXT = 0xFF212121.toInt()
    }
}
