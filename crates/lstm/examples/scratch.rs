//! scratch
use burn::tensor::{Device, Distribution, Tensor};
use seq_lstm::{LstmConfig, SequenceLayer, RecurrentCell};
use std::time::Instant;
fn main() {
    #[allow(deprecated)]
    for (name, dev) in [("ndarray", Device::ndarray()), ("flex", Device::flex())] {
        // correctness
        for (b, t, d, h) in [(1, 1, 1, 1), (2, 7, 3, 5), (3, 9, 17, 33), (32, 20, 40, 64), (7, 5, 16, 48)] {
            let cell = LstmConfig::new(d, h).init_cell(&dev);
            let x = Tensor::<3>::random([b, t, d], Distribution::Default, &dev);
            let (y, s) = cell.sequence(x.clone(), None, false, cell.initial_state(b, &dev));
            let (y2, s2) = cell.reference(x, None, false, cell.initial_state(b, &dev));
            let diff = (y - y2).abs().max().into_scalar::<f32>();
            let diff2 = (s.cell - s2.cell).abs().max().into_scalar::<f32>();
            println!("{name} {b} {t} {d} {h}: {diff:e} {diff2:e}");
        }
        let med = |mut v: Vec<f64>| { v.sort_by(f64::total_cmp); (v[v.len() / 2] * 1e3, v[0] * 1e3) };
        for (b, t, d, h, l) in [(1, 256, 128, 256, 1), (1, 1000, 512, 512, 1), (32, 128, 128, 256, 1), (32, 128, 256, 512, 2)] {
            let lstm = LstmConfig::new(d, h).with_num_layers(l).init(&dev);
            let x = Tensor::<3>::random([b, t, d], Distribution::Default, &dev);
            let v: Vec<f64> = (0..30).map(|_| { let s = Instant::now(); let y = lstm.forward(x.clone(), None).0; std::hint::black_box(&y); s.elapsed().as_secs_f64() }).collect();
            let gf = 2.0 * (b * t) as f64 * (0..l).map(|i| (if i == 0 { d } else { h }) + h).sum::<usize>() as f64 * 4.0 * h as f64;
            let (m, n) = med(v);
            println!("{name} infer {b} {t} {d} {h} {l}: {m:.3} ms (min {n:.3}) {:.0} GF", gf / m / 1e6);
        }
        let ad = dev.clone().autodiff();
        for (b, t, d, h) in [(32, 128, 128, 256), (16, 256, 256, 512)] {
            let lstm = LstmConfig::new(d, h).init(&ad);
            let x = Tensor::<3>::random([b, t, d], Distribution::Default, &ad);
            let p = Tensor::<3>::random([b, t, h], Distribution::Default, &ad);
            let v: Vec<f64> = (0..10).map(|_| { let s = Instant::now(); let g = (lstm.forward(x.clone(), None).0 * p.clone()).sum().backward(); std::hint::black_box(&g); s.elapsed().as_secs_f64() }).collect();
            let gf = 2.0 * (b * t) as f64 * 4.0 * h as f64 * (2 * d + 3 * h) as f64;
            let (m, n) = med(v);
            println!("{name} train {b} {t} {d} {h}: {m:.2} ms (min {n:.2}) {:.0} GF", gf / m / 1e6);
        }
        let lstm = LstmConfig::new(256, 256).init(&dev);
        let x = Tensor::<2>::random([1, 256], Distribution::Default, &dev);
        let mut st = lstm.initial_state(1, &dev);
        let v: Vec<f64> = (0..50).map(|_| { let s = Instant::now(); for _ in 0..200 { st = lstm.step(x.clone(), st.clone()).1; } s.elapsed().as_secs_f64() / 200.0 }).collect();
        let (m, n) = med(v);
        println!("{name} step: {:.2} us (min {:.2})", m * 1e3, n * 1e3);
    }
}
