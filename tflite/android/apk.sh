#!/usr/bin/env bash
# Makes a signed APK of the sample app, without Gradle and without Android's SDK.
#
#     apk.sh MODEL.tflite [BASELINE.tflite]
#
# The baseline is measured in turn with the model: the network cut at an exit, exported likewise.
# What mvn has compiled is in */target/classes; aapt2, zipalign and apksigner come from the
# packages of these names. The key is made anew, for this machine: good to try the app, and no more.
set -euo pipefail
model=$(realpath "$1")
baseline=${2:+$(realpath "$2")}
cd "$(dirname "$0")"
work=sample/target/apk
tools=sample/target/tools
aars=aar/target/aars
rm -rf "$work"
mkdir -p "$work/assets" "$work/stage/lib"

cp "$model" "$work/assets/model.tflite"
[ -z "$baseline" ] || cp "$baseline" "$work/assets/baseline.tflite"
aapt2 compile --dir sample/src/main/res -o "$work/res.zip"
aapt2 link -I "$tools/android-all.jar" --manifest sample/src/main/AndroidManifest.xml \
    --min-sdk-version 24 --target-sdk-version 34 --version-code 1 --version-name 0.2.0 \
    -A "$work/assets" -0 .tflite --proguard "$work/aapt.pro" -o "$work/resources.apk" "$work/res.zip"
cp "$work/resources.apk" "$work/stage/app.apk"

classes=()
for module in core android sample aar; do
    (cd "$module/target/classes" && find . -name '*.class' | zip -q -X "$OLDPWD/$work/$module.jar" -@)
    classes+=("$work/$module.jar")
done
java -Xmx1g -cp "$tools/r8.jar" com.android.tools.r8.R8 --release --min-api 24 \
    --lib "$tools/android-all.jar" --lib "${JAVA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v java)")")")}" \
    --pg-conf "$work/aapt.pro" --pg-conf "$aars/tensorflow-lite/proguard.txt" \
    --pg-conf consumer-rules.pro --output "$work/stage" \
    "${classes[@]}" "$tools/kotlin-stdlib.jar" "$tools/annotations.jar"

for abi in arm64-v8a armeabi-v7a x86_64; do
    mkdir -p "$work/stage/lib/$abi"
    cp "$aars/tensorflow-lite/jni/$abi/"*.so "$work/stage/lib/$abi/"
done
(cd "$work/stage" && zip -q -X app.apk classes*.dex && zip -q -X -0 -r app.apk lib)
zipalign -p 4 "$work/stage/app.apk" "$work/aligned.apk"

key=sample/target/debug.keystore
[ -f "$key" ] || keytool -genkeypair -keystore "$key" -storepass android -keypass android \
    -alias androiddebugkey -keyalg RSA -validity 10000 -dname 'CN=Android Debug' 2> /dev/null
apksigner sign --ks "$key" --ks-pass pass:android --ks-key-alias androiddebugkey \
    --min-sdk-version 24 --out sample/target/sample.apk "$work/aligned.apk"
apksigner verify --min-sdk-version 24 sample/target/sample.apk
zipalign -c -p 4 sample/target/sample.apk
echo "tflite/android/sample/target/sample.apk: $(stat -c %s sample/target/sample.apk) bytes"
