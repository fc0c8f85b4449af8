#!/usr/bin/env bash
# Writes a Maven repository of the library into a folder, that Gradle and Maven can read:
#
#     publish.sh FOLDER
#
# What mvn has compiled is in */target/classes, its documentation in */target/documentation.
set -euo pipefail
repository=$(realpath -m "$1")
cd "$(dirname "$0")/.."
version=0.2.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for module in core android desktop; do
    (cd "$module/target/classes" && find . -name '*.class' -o -name '*.kotlin_module' |
        zip -q -X "$work/$module.jar" -@)
    (cd "$module/src/main/kotlin" && zip -q -X -r "$work/$module-sources.jar" .)
    (cd "$module/target/documentation" && zip -q -X -r "$work/$module-javadoc.jar" .)
done
mkdir "$work/aar"
cp "$work/android.jar" "$work/aar/classes.jar"
cp publish/AndroidManifest.xml "$work/aar/"
cp consumer-rules.pro "$work/aar/proguard.txt"
: > "$work/aar/R.txt"
(cd "$work/aar" && zip -q -X -r "$work/android.aar" .)

deploy() {
    mvn --quiet --non-recursive org.apache.maven.plugins:maven-deploy-plugin:3.1.4:deploy-file \
        -Dfile="$work/$1" -Dpackaging="$2" -DpomFile="$PWD/publish/$3.xml" \
        -Dsources="$work/$3-sources.jar" -Djavadoc="$work/$3-javadoc.jar" \
        -Durl="file://$repository" -DrepositoryId=local
}
deploy core.jar jar core
deploy android.aar aar android
deploy desktop.jar jar desktop
echo "$repository: anytime-tflite-core, anytime-tflite-android and anytime-tflite-desktop $version"
