// Plots cost against the number of volumes, as SVG with logarithmic axes: a cost that does not
// depend on the number of volumes is a horizontal line.
import { LineChart } from "echarts/charts";
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";

/** Medians at one size. */
export type Drawn = {
  readonly volumes: number;
  readonly singleMs: number;
  readonly singleByHandMs: number;
  readonly burstMs: number;
  readonly restartMs: number | undefined;
  readonly restartByHandMs: number | undefined;
};

const SIZE = { width: 960, height: 600 };
const BLUE = "#1f77b4";
const GREEN = "#2ca02c";
const RED = "#d62728";

export function plot(sizes: readonly Drawn[]): string {
  use([SVGRenderer, LineChart, GridComponent, LegendComponent, TitleComponent]);
  const chart = init(null, null, { renderer: "svg", ssr: true, ...SIZE });
  const line = (name: string, color: string, cost: (at: Drawn) => number | undefined) => {
    const byHand = name.endsWith("by hand");
    return {
      name,
      type: "line" as const,
      data: sizes.flatMap((at) => {
        const value = cost(at);
        return value === undefined ? [] : [[at.volumes, Number(value.toPrecision(3))]];
      }),
      color,
      symbol: byHand ? "emptyCircle" : "circle",
      symbolSize: 9,
      lineStyle: { width: 2, type: byHand ? ("dashed" as const) : ("solid" as const) },
      // Label only the lines of the agent: labels of close lines would overlap.
      label: { show: !byHand, position: "top" as const, backgroundColor: "#ffffffcc" },
    };
  };
  const [first = 1, last = 1] = [sizes[0]?.volumes, sizes.at(-1)?.volumes];
  const axis = { type: "log", nameLocation: "middle", minorSplitLine: { show: true } } as const;
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    title: {
      text: "Cost against the number of volumes on the node",
      subtext: "medians; dashed: the same calls and commits by hand",
      left: 20,
      top: 10,
    },
    legend: { bottom: 8, itemGap: 36, itemWidth: 36 },
    grid: { left: 80, right: 40, top: 80, bottom: 90 },
    xAxis: { ...axis, name: "volumes on the node", nameGap: 30, min: first / 2, max: last * 2 },
    yAxis: { ...axis, name: "milliseconds", nameGap: 52 },
    series: [
      line("one volume", BLUE, ({ singleMs }) => singleMs),
      line("one volume, by hand", BLUE, ({ singleByHandMs }) => singleByHandMs),
      line("burst, per volume", GREEN, ({ burstMs }) => burstMs),
      line("restart of the target", RED, ({ restartMs }) => restartMs),
      line("restart, by hand", RED, ({ restartByHandMs }) => restartByHandMs),
    ],
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}
