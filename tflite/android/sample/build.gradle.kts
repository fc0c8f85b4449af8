// For Android Studio: not run where this was written, where there is no Gradle.
plugins {
    id("com.android.application") version "8.13.0"
    id("org.jetbrains.kotlin.android") version "2.4.21"
}

android {
    namespace = "io.github.keras_adaptive.sample"
    compileSdk = 34
    defaultConfig {
        minSdk = 24
        targetSdk = 34
        versionCode = 1
        versionName = "0.2.0"
    }
    // the model, as assets/model.tflite, is what `make apk` has put there
    sourceSets["main"].assets.srcDir("target/apk/assets")
    androidResources { noCompress += "tflite" }
    buildTypes {
        release { isMinifyEnabled = true }
    }
}

dependencies {
    implementation("io.github.keras_adaptive:anytime-tflite-android:0.2.0")
    implementation("org.tensorflow:tensorflow-lite:2.16.1")
}
