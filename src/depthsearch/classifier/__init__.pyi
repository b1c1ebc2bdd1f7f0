from .confusion import confusion_picture as confusion_picture
from .figures import ClassFigures as ClassFigures, Figures as Figures, figures_of as figures_of
from .fitting import Fitted as Fitted, TestReading as TestReading, fit as fit, refit as refit
from .model import Classifier as Classifier, Prediction as Prediction
from .modelfolder import Description as Description, load as load, save as save
from .onnxfile import OnnxFile as OnnxFile, export_onnx as export_onnx
