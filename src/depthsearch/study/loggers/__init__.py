"""Where the events of a running study are kept: files of JSON lines, TensorBoard, MLflow."""
