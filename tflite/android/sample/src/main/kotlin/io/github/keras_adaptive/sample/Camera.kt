package io.github.keras_adaptive.sample

import android.content.Context
import android.graphics.ImageFormat
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.media.Image
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import io.github.keras_adaptive.anytime.Picture
import io.github.keras_adaptive.anytime.Plane

/**
 * Gives the frames of the camera as pictures, one after the other: those that come while one is
 * used are left out.
 *
 * @param use is called in the camera's own thread.
 */
class Camera(
    private val context: Context,
    private val use: (Picture) -> Unit,
    private val failed: (String) -> Unit,
) {
    private val thread = HandlerThread("camera").apply { start() }
    private val handler = Handler(thread.looper)
    private var device: CameraDevice? = null
    private var reader: ImageReader? = null
    private var turned = 0

    /** Begins; the permission must have been given. */
    @Suppress("MissingPermission")
    fun start() {
        try {
            val manager = context.getSystemService(CameraManager::class.java)
            val facing = manager.cameraIdList.groupBy {
                manager.getCameraCharacteristics(it).get(CameraCharacteristics.LENS_FACING)
            }
            val id = (facing[CameraCharacteristics.LENS_FACING_BACK] ?: facing.values.firstOrNull())
                ?.first() ?: return failed("There is no camera")
            turned = manager.getCameraCharacteristics(id)
                .get(CameraCharacteristics.SENSOR_ORIENTATION) ?: 0
            manager.openCamera(id, opened, handler)
        } catch (error: CameraAccessException) {
            failed("The camera cannot be opened: ${error.message}")
        } catch (error: SecurityException) {
            failed("The camera is not allowed")
        }
    }

    private val opened = object : CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            device = camera
            val frames = ImageReader.newInstance(WIDTH, HEIGHT, ImageFormat.YUV_420_888, 2)
            frames.setOnImageAvailableListener({ it.acquireLatestImage()?.use(::frame) }, handler)
            reader = frames
            camera.createCaptureSession(listOf(frames.surface), session(camera, frames), handler)
        }

        override fun onDisconnected(camera: CameraDevice) = camera.close()

        override fun onError(camera: CameraDevice, error: Int) {
            camera.close()
            failed("The camera has failed: error $error")
        }
    }

    private fun session(camera: CameraDevice, frames: ImageReader) =
        object : CameraCaptureSession.StateCallback() {
            override fun onConfigured(session: CameraCaptureSession) {
                val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW)
                request.addTarget(frames.surface)
                session.setRepeatingRequest(request.build(), null, handler)
            }

            override fun onConfigureFailed(session: CameraCaptureSession) =
                failed("The camera cannot be set up")
        }

    private fun frame(image: Image) {
        val (y, u, v) = image.planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
        use(Picture.fromYuv(y, u, v, image.height, image.width).rotated(turned))
    }

    /** Ends, and frees the camera. */
    fun stop() {
        handler.post {
            device?.close()
            reader?.close()
            thread.quitSafely()
        }
    }

    private companion object {
        const val WIDTH = 640
        const val HEIGHT = 480
    }
}
