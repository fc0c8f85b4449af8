"""A run's report: one dictionary, written as JSON, Markdown, HTML and a model card."""

from keras_adaptive.report.form import check_report as check_report
from keras_adaptive.report.form import read_report as read_report
from keras_adaptive.report.measurements import read_measurements as read_measurements
from keras_adaptive.report.tables import budget_table as budget_table
from keras_adaptive.report.tables import exit_ratio_lines as exit_ratio_lines
from keras_adaptive.report.tables import exit_table as exit_table
from keras_adaptive.report.tables import feasible_budget as feasible_budget
from keras_adaptive.report.tables import interval as interval
from keras_adaptive.report.tables import machine as machine
from keras_adaptive.report.tables import merged as merged
from keras_adaptive.report.tables import policy_facts as policy_facts
from keras_adaptive.report.tables import result_row as result_row
from keras_adaptive.report.tables import table as table
from keras_adaptive.report.tables import thresholds as thresholds
from keras_adaptive.report.writing import card as card
from keras_adaptive.report.writing import markdown as markdown
from keras_adaptive.report.writing import write as write
