"""Run by a Python that has nnU-Net v2: make a tiny trained folder, and say what nnU-Net itself answers with it.

python real_nnunet.py FOLDER IMAGES.npy SPACING ANSWER.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

RESAMPLING = "resample_data_or_seg_to_shape"
KWARGS = {"order": 1, "order_z": 0, "force_separate_z": None}
DATASET = {
    "channel_names": {"0": "T1c", "1": "FLAIR"},
    "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
PLANS = {
    "dataset_name": "Dataset001_Tiny",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "original_median_shape_after_transp": [16, 16, 16],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 0.0, "std": 1.0}, "1": {"mean": 0.0, "std": 1.0}},
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16, 16, 16],
            "median_image_size_in_voxels": [16, 16, 16],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"] * 2,
            "use_mask_for_norm": [False, False],
            "resampling_fn_data": RESAMPLING,
            "resampling_fn_seg": RESAMPLING,
            "resampling_fn_data_kwargs": {"is_seg": False} | KWARGS,
            "resampling_fn_seg_kwargs": {"is_seg": True} | KWARGS,
            "resampling_fn_probabilities": RESAMPLING,
            "resampling_fn_probabilities_kwargs": {"is_seg": False} | KWARGS,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [4, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1],
                    "n_conv_per_stage_decoder": [1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
            },
            "batch_dice": False,
        }
    },
}


def make(folder):
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "plans.json").write_text(json.dumps(PLANS))
    manager = PlansManager(PLANS)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 4, enable_deep_supervision=False
    )
    checkpoint = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": network.state_dict(),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


if __name__ == "__main__":
    made, images, spacing, answer = sys.argv[1:]
    make(Path(made))
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(made, None, "checkpoint_final.pth")
    np.save(answer, predictor.predict_single_npy_array(np.load(images), {"spacing": [float(spacing)] * 3}))
