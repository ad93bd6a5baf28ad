"""The networks that Keras builds by name, each with the size of picture it was trained on and its preprocessing."""

from dataclasses import dataclass

from bootstrap.weights.preprocessing import Preprocessing

MOBILENET_V2 = "mobilenet_v2"


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`: the function that builds it, and what it takes.

    `is_built_otherwise` where Keras adds a layer for its ImageNet weights, so that weights of a file would do in one of
    two networks, and nothing says which.
    """

    builder: str
    input_px: int
    preprocessing: Preprocessing
    is_built_otherwise: bool = False


# Networks with `raw` do the preprocessing in layers of their own.
APPLICATIONS = {
    "xception": Application("Xception", 299, "tf"),
    "vgg16": Application("VGG16", 224, "caffe"),
    "vgg19": Application("VGG19", 224, "caffe"),
    "resnet50": Application("ResNet50", 224, "caffe"),
    "resnet101": Application("ResNet101", 224, "caffe"),
    "resnet152": Application("ResNet152", 224, "caffe"),
    "resnet50_v2": Application("ResNet50V2", 224, "tf"),
    "resnet101_v2": Application("ResNet101V2", 224, "tf"),
    "resnet152_v2": Application("ResNet152V2", 224, "tf"),
    "inception_v3": Application("InceptionV3", 299, "tf"),
    "inception_resnet_v2": Application("InceptionResNetV2", 299, "tf"),
    "mobilenet": Application("MobileNet", 224, "tf"),
    MOBILENET_V2: Application("MobileNetV2", 224, "tf"),
    "mobilenet_v3_small": Application("MobileNetV3Small", 224, "raw"),
    "mobilenet_v3_large": Application("MobileNetV3Large", 224, "raw"),
    "densenet121": Application("DenseNet121", 224, "torch"),
    "densenet169": Application("DenseNet169", 224, "torch"),
    "densenet201": Application("DenseNet201", 224, "torch"),
    "nasnet_mobile": Application("NASNetMobile", 224, "tf"),
    "nasnet_large": Application("NASNetLarge", 331, "tf"),
    **{
        f"efficientnet_b{number}": Application(f"EfficientNetB{number}", input_px, "raw", is_built_otherwise=True)
        for number, input_px in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"efficientnet_v2_{size}": Application(f"EfficientNetV2{size.upper()}", input_px, "raw")
        for size, input_px in {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "s": 384, "m": 480, "l": 480}.items()
    },
    "convnext_tiny": Application("ConvNeXtTiny", 224, "raw"),
    "convnext_small": Application("ConvNeXtSmall", 224, "raw"),
    "convnext_base": Application("ConvNeXtBase", 224, "raw"),
    "convnext_large": Application("ConvNeXtLarge", 224, "raw"),
    "convnext_xlarge": Application("ConvNeXtXLarge", 224, "raw"),
}
