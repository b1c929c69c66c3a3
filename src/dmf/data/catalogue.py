"""The paper's data sets: where they are, what they hold, their licence, and how to cite them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Web:
    """An address of an archive, with its SHA-256 where the publisher or others state it."""

    address: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class Kaggle:
    """A data set at Kaggle, fetched by its own client where credentials are there."""

    handle: str

    def __str__(self) -> str:
        return f"Kaggle {self.handle}"


@dataclass(frozen=True)
class Origin:
    """What is known of a set: where it is, what it holds, how to cite it."""

    title: str
    page: str
    licence: str
    citation: str
    images: int
    places: tuple[Web | Kaggle, ...]


def _mendeley(identifier: str, version: int) -> tuple[Web, Web]:
    cache = "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com"
    return (
        Web(f"{cache}/{identifier}-{version}.zip"),
        Web(f"https://data.mendeley.com/public-api/zip/{identifier}/download/{version}"),
    )


BUSI_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"

PDF_UNET = (
    "A. Iqbal, M. Sharif: PDF-UNet: A semi-supervised method for segmentation of breast tumor "
    "images using a U-shaped pyramid-dilated network. Expert Systems with Applications, 2023. "
    "https://doi.org/10.1016/j.eswa.2023.119718"
)
RODRIGUES = (
    "P. S. Rodrigues: Breast Ultrasound Image. Mendeley Data, V1, 2017. "
    "https://doi.org/10.17632/wmy84gzngw.1"
)

# The paper names its sets, but gives addresses of no archive; these are the ones in public use.
ORIGINS = {
    "busi": Origin(
        title="BUSI, breast ultrasound images (benign and malignant)",
        page="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        licence="CC0 or CC BY 4.0, as third parties state",
        citation=(
            "W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy: Dataset of breast ultrasound images. "
            "Data in Brief 28, 104863, 2020. https://doi.org/10.1016/j.dib.2019.104863"
        ),
        images=647,
        places=(
            Web("https://scholar.cu.edu.eg/Dataset_BUSI.zip", BUSI_SHA256),
            Kaggle("aryashah2k/breast-ultrasound-images-dataset"),
            Kaggle("sabahesaraki/breast-ultrasound-images-dataset"),
        ),
    ),
    "busc": Origin(
        title="BUSC, breast ultrasound images with masks",
        page="https://data.mendeley.com/datasets/vckdnhtw26/1",
        licence="CC BY 4.0, as third parties state",
        citation=f"{PDF_UNET}, and {RODRIGUES}",
        images=250,
        places=_mendeley("vckdnhtw26", 1),
    ),
    "bus": Origin(
        title="BUS, synthetic breast ultrasound images",
        page="https://data.mendeley.com/datasets/r4phtn49r7/1",
        licence="CC BY 4.0, as third parties state",
        citation=PDF_UNET,
        images=500,
        places=(*_mendeley("r4phtn49r7", 1), Kaggle("jocelyndumlao/bus-synthetic-dataset")),
    ),
}
