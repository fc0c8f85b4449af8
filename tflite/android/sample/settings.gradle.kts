// For Android Studio; `make apk` does not need it. The library comes from `make aar`.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}
dependencyResolutionManagement {
    repositories {
        maven { url = uri("../target/repository") }
        google()
        mavenCentral()
    }
}
rootProject.name = "sample"
