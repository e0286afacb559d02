import os
from pathlib import Path

base = Path(".")
models_dir = "models"
folder_names_and_paths = {}


def use(folder):
    """Point everything below one folder (the tests' own, not ComfyUI's)."""
    global base, models_dir
    base, models_dir = Path(folder), str(Path(folder) / "models")
    folder_names_and_paths.clear()
    folder_names_and_paths["loras"] = ([str(base / "models/loras")], {".safetensors", ".pt"})
    folder_names_and_paths["text_encoders"] = ([str(base / "models/clip")], {".safetensors"})
    for name in ("output", "input", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)


def get_output_directory():
    return str(base / "output")


def get_input_directory():
    return str(base / "input")


def get_temp_directory():
    return str(base / "temp")


def add_model_folder_path(folder_name, full_folder_path, is_default=False):
    folder_names_and_paths.setdefault(folder_name, ([], set()))[0].append(full_folder_path)


def get_folder_paths(folder_name):
    return folder_names_and_paths[folder_name][0][:]


def get_filename_list(folder_name):
    roots, suffixes = folder_names_and_paths[folder_name]
    files = [(Path(root), path) for root in roots for path in Path(root).rglob("*")]
    return sorted(str(path.relative_to(root)) for root, path in files if path.is_file() and path.suffix in suffixes)


def get_full_path(folder_name, filename):
    return next(
        (str(Path(root) / filename) for root in get_folder_paths(folder_name) if (Path(root) / filename).is_file()), None
    )


def get_full_path_or_raise(folder_name, filename):
    path = get_full_path(folder_name, filename)
    if path is None:
        raise FileNotFoundError(filename)
    return path


def get_annotated_filepath(name, default_dir=None):
    name, _, kind = name.rpartition(" ")
    return os.path.join({"[output]": get_output_directory(), "[input]": get_input_directory()}[kind], name)


def get_save_image_path(filename_prefix, output_dir, image_width=0, image_height=0):
    subfolder, name = os.path.split(os.path.normpath(filename_prefix))
    folder = os.path.join(output_dir, subfolder)
    os.makedirs(folder, exist_ok=True)
    taken = [int(f[len(name) + 1 :].split("_")[0].split(".")[0]) for f in os.listdir(folder) if f.startswith(name + "_")]
    return folder, name, max(taken, default=0) + 1, subfolder, filename_prefix
